"""What the handlers work with; made once by `app.build_app`, found again on each request."""

from typing import Any, Protocol, cast

import msgspec
from litestar import Litestar, Request
from prometheus_client import CollectorRegistry

from payments.api.authentication import Authenticator
from payments.api.gauges import Gauges
from payments.api.in_flight import InFlight
from payments.api.request_metrics import RequestMetrics
from payments.api.turns import Turns
from payments.api.waiting import Waiters
from payments.database.connections import Pool
from payments.settings import Settings

ApiRequest = Request[Any, Any, Any]


class Notifies(Protocol):
    """What the handlers need of payments.wakeup.Notifier."""

    def notify(self, channel: str, payload: str = "") -> None:
        """Wakes the listeners of a channel."""


class Services(msgspec.Struct, frozen=True):
    """The process's own things: settings, connections, who waits, who is known."""

    settings: Settings
    pool: Pool
    notifier: Notifies
    waiters: Waiters
    authenticator: Authenticator
    in_flight: InFlight
    turns: Turns
    gauges: Gauges
    metrics: RequestMetrics
    registry: CollectorRegistry


def services_of(request: ApiRequest) -> Services:
    """The services of the app that got the request."""
    return cast("Services", request.app.state["services"])


def install(app: Litestar, services: Services) -> None:
    """Gives the handlers of an app its services."""
    app.state["services"] = services
