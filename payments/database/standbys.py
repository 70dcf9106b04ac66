"""What PostgreSQL says of a commit that is on no synchronous standby yet."""

from psycopg.errors import Diagnostic

from payments.errors import DatabaseUnsuitable


class Doubts:
    """Notices of a connection: those that tell of a commit which a failover may undo."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, diagnostic: Diagnostic) -> None:
        """For `add_notice_handler`.

        Only the WARNING of PostgreSQL's `syncrep.c` counts. Others say nothing of the commit: that transaction ids run
        short, or that a session to be ended was gone.
        """
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.source_function == "SyncRepWaitForLSN":
            self.told.append(str(diagnostic.message_primary))

    def tell_operator(self) -> None:
        """Raises DatabaseUnsuitable if there was one."""
        if self.told:
            raise DatabaseUnsuitable(
                f"It is done on this server, and perhaps on no standby: {self.told[0]}.",
                advice="A failover may undo it. Look when the standby is back; make keys that were not shown anew.",
            )
