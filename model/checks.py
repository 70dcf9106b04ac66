"""What is checked: the protocol as it is, which must hold, and broken in many ways, each of which must be found out."""

from dataclasses import dataclass

ONE_CHARGE = "at most one charge"
NOT_IN_DOUBT = "never FAILED, nor VOIDED, in doubt"
OWN_LEASE = "never an ack by a lost lease"
ONE_OUTCOME = "each outcome is published once"
RECORDED = "whatever was committed is recorded and published in the end"
SENT_ONCE = "each row reaches each queue at most once"
SENT = "each committed row reaches every queue that is bound to it"


@dataclass(frozen=True)
class Check:
    """One search through all states of a model.

    `parts`: what may happen in it, of the model's own list; `broken`: the fault that is put into it, by its name there;
    `promise`: what it must be seen to break, None when everything must hold. `is_deep`: takes minutes.
    """

    name: str
    model: str
    parts: str = ""
    broken: str = ""
    promise: str | None = None
    is_deep: bool = False

    def is_met_by(self, broken: str | None) -> bool:
        """Whether that is what should come of it: the promise that was broken, None when all were kept."""
        return broken is None if self.promise is None else broken is not None and self.promise in broken

    @property
    def macros(self) -> list[str]:
        """The -D options that choose it."""
        chosen = {"WITH": self.parts, "BROKEN": self.broken}
        return [f"-D{macro}={value}" for macro, value in chosen.items() if value]


def _broken_delivery(broken: str, promise: str | None) -> Check:
    return Check(broken.lower().replace("_", "-"), "delivery", broken=broken, promise=promise)


def _broken_charging(broken: str, parts: str, promise: str) -> Check:
    return Check(broken.lower().replace("_", "-"), "charging", parts, broken, promise)


SOUND = [
    Check("delivery", "delivery"),
    Check("charging-voids-limits", "charging", "VOIDS+RATE_LIMITS+LATECOMERS"),
    Check("charging-voids-days", "charging", "VOIDS+DAYS+LATECOMERS"),
    Check("charging-errors", "charging", "SERVER_ERRORS"),
    Check("charging-all", "charging", is_deep=True),
    # Two guards hold relays apart; either suffices when the other fails.
    _broken_delivery("NO_LANE_LOCK", None),
    _broken_delivery("NO_PREDECESSOR", None),
]
BROKEN = [
    _broken_delivery("NO_LANE_GUARD", SENT_ONCE),
    _broken_delivery("CURSOR_BY_ID", SENT),
    _broken_delivery("SEND_BEFORE_MARK", SENT_ONCE),
    _broken_charging("NO_FENCE", "DAYS", OWN_LEASE),
    _broken_charging("NEW_KEY_ON_RETRY", "DAYS", ONE_CHARGE),
    _broken_charging("NO_INTENT", "DAYS", ONE_CHARGE),
    _broken_charging("BLIND_RETRY", "DAYS", ONE_CHARGE),
    _broken_charging("PUBLISH_FIRST", "DAYS", ONE_OUTCOME),
    _broken_charging("ACK_FIRST", "DAYS", RECORDED),
    _broken_charging("NO_ROW_LOCK", "DAYS", ONE_OUTCOME),
    _broken_charging("TIMEOUT_IS_FAILURE", "DAYS", NOT_IN_DOUBT),
    _broken_charging("NO_HOLD", "DAYS", ONE_CHARGE),
    _broken_charging("REVIVE_LEASE", "DAYS", ONE_CHARGE),
    _broken_charging("NO_QUIET_TIME", "DAYS", ONE_CHARGE),
    _broken_charging("NO_PROOF", "DAYS", ONE_CHARGE),
    _broken_charging("SETTLE_TWICE", "DAYS", ONE_CHARGE),
    _broken_charging("OLD_COMMAND", "SERVER_ERRORS", RECORDED),
    _broken_charging("UNCOUNT_TWICE", "VOIDS+RATE_LIMITS", NOT_IN_DOUBT),
    _broken_charging("SLEEP_IN_CALL", "DAYS", ONE_CHARGE),
]
CHECKS = SOUND + BROKEN
