"""After a restore: wishes wait until the reconciler has looked at what happened at Stripe since the backup.

The database refuses them itself (payments.hold_wishes), in the statement that would record them.
"""

import psycopg

from payments.api.problems import Refusal
from payments.database.connections import DATABASE_AWAY

# What the trigger raises.
HELD_SQLSTATE = "PY001"
# A worker looks through an hour of Stripe's in seconds; a client need not ask more often.
RETRY_AFTER_S = 10


def reason_of(error: Exception) -> Exception:
    """What to raise where the database has recorded nothing: a Refusal that `error` caused, or else `error` itself."""
    if isinstance(error, psycopg.Error) and error.sqlstate == HELD_SQLSTATE:
        refusal = catching_up()
    elif isinstance(error, DATABASE_AWAY):
        refusal = Refusal("database_unavailable", "Nothing was recorded; send the request again.")
    else:
        return error
    refusal.__cause__ = error
    return refusal


def catching_up() -> Refusal:
    """The answer to every wish meanwhile."""
    return Refusal(
        "catching_up",
        "The database was restored from a backup, and what Stripe did since is still being looked at. Nothing was "
        "recorded; send the request again, unchanged.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
