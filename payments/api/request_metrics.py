"""What the process counts about its requests, in the names that Prometheus scrapes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a memory access to the longest wait a caller may ask for.
BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 31)
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})  # anything else is OTHER


class RequestMetrics:
    """Counts answers by route template and status, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "payments_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "payments_http_request_duration_seconds",
            "Time from the request's head to the end of its answer, waiting for payments included.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge("payments_http_requests_in_flight", "Requests being worked on.", registry=registry)
        self.waiters = Gauge("payments_http_waiters", "Callers waiting for a payment to settle.", registry=registry)

    def note(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Counts one answer."""
        known = method if method in METHODS else "OTHER"
        self._answers.labels(known, route, status).inc()
        self._seconds.labels(known, route).observe(duration_s)
