"""After a restore: wishes wait until the reconciler has looked at what happened at Stripe since the backup.

The database refuses them itself (payments.hold_wishes), in the statement that would record them.
"""

from typing import NoReturn

import psycopg

from payments.api.problems import Refusal
from payments.database.connections import DATABASE_AWAY

# What the trigger raises.
HELD_SQLSTATE = "PY001"
# A worker looks through an hour of Stripe's in seconds; a client need not ask more often.
RETRY_AFTER_S = 10


def raise_failed(error: Exception) -> NoReturn:
    """Raises what a request is told that the database has refused: nothing was recorded."""
    if isinstance(error, psycopg.Error) and error.sqlstate == HELD_SQLSTATE:
        raise catching_up() from error
    if isinstance(error, DATABASE_AWAY):
        raise Refusal("database_unavailable", "Nothing was recorded; send the request again.") from error
    raise error


def catching_up() -> Refusal:
    """The answer to every wish meanwhile."""
    return Refusal(
        "catching_up",
        "The database was restored from a backup, and what Stripe did since is still being looked at. Nothing was "
        "recorded; send the request again, unchanged.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
