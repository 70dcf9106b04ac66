"""What can go wrong that an operator can mend; every message says how.

    PaymentsError
    ├── OperatingError            the surroundings are wrong: the command stops with `exit_code`
    │   ├── ConfigurationError    78  a setting is missing, malformed or contradicts another
    │   ├── DatabaseUnreachable   69  no PostgreSQL answers where DATABASE_URL points
    │   ├── DatabaseUnsuitable    69  too old a PostgreSQL or pgmq, or a role that may not do its work
    │   ├── ClusterMoved          65  the database was restored into another cluster and not rebased yet
    │   ├── RebaseRefused         65  a restored database cannot be brought back as it stands
    │   ├── SchemaTooOld          65  the database needs `payments migrate` first
    │   ├── SchemaTooNew          65  the database belongs to a later release of this program
    │   ├── ConsumerRefused       65  a consumer cannot be added, removed or given a password as wished
    │   ├── PortTaken             73  another process listens on HOST:PORT
    │   ├── DataDirectoryInUse    75  another `payments up` runs in the same data directory
    │   ├── EmbeddedPostgresFailed 70 the PostgreSQL of `payments up` would not start
    │   └── ProcessNotReady       70  a process of `payments up` did not become ready in time
    └── (programmer errors are asserted, not raised from here)

Exit codes follow BSD's sysexits.h. 0 is success, 1 a command that ran and found trouble (`doctor`), 2 wrong usage,
130 interrupted by Ctrl-C. A room that needs a further error adds a leaf here.
"""

from typing import ClassVar

EXIT_OK = 0
EXIT_FOUND_TROUBLE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class PaymentsError(Exception):
    """The root of the errors that this program raises on purpose."""


class OperatingError(PaymentsError):
    """A fault outside the program: `message` says what is wrong, `advice` what to do about it."""

    exit_code: ClassVar[int] = EXIT_FOUND_TROUBLE

    def __init__(self, message: str, *, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class ConfigurationError(OperatingError):
    """One or more settings are wrong; `faults` holds each in plain words."""

    exit_code = 78

    def __init__(
        self,
        faults: tuple[str, ...],
        *,
        advice: str = "docs/settings.md describes every setting.",
    ) -> None:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        super().__init__(f"{len(faults)} setting(s) cannot be used:{listed}", advice=advice)
        self.faults = faults


class DatabaseUnreachable(OperatingError):
    """No PostgreSQL answers at the configured address, or it refuses the login."""

    exit_code = 69


class DatabaseUnsuitable(OperatingError):
    """A PostgreSQL answers, but it cannot serve: too old, without topics in pgmq, or the role lacks rights."""

    exit_code = 69


class ClusterMoved(OperatingError):
    """The database was made in another cluster: what counts as dispatched must be settled before anybody writes."""

    exit_code = 65


class RebaseRefused(OperatingError):
    """What is there stands against a rebase; nothing was changed."""

    exit_code = 65


class SchemaTooOld(OperatingError):
    """The database's schema precedes the one this program was written for."""

    exit_code = 65


class SchemaTooNew(OperatingError):
    """The database's schema comes from a later release than this program."""

    exit_code = 65


class ConsumerRefused(OperatingError):
    """What is there already, or is not, stands against a wish about a consumer; nothing was changed."""

    exit_code = 65


class PortTaken(OperatingError):
    """The address to listen on belongs to another process."""

    exit_code = 73


class DataDirectoryInUse(OperatingError):
    """Another `payments up` holds the lock of the data directory."""

    exit_code = 75


class EmbeddedPostgresFailed(OperatingError):
    """The PostgreSQL that `payments up` brings along would not start, or not stay."""

    exit_code = 70


class ProcessNotReady(OperatingError):
    """A process of `payments up` did not become ready in the time allowed."""

    exit_code = 70
