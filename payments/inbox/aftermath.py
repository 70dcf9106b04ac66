"""What has to happen once a transaction of the recorder is committed."""

from uuid import UUID

import msgspec

from payments.inbox.fetching import FetchWanted


class Weighed(msgspec.Struct):
    """Whom to wake, and what to ask Stripe for."""

    row_count: int = 0
    has_published: bool = False
    settled: set[UUID] = msgspec.field(default_factory=set)  # payments and refunds
    queues: set[str] = msgspec.field(default_factory=set)  # that got commands
    fetches: dict[tuple[object, ...], FetchWanted] = msgspec.field(default_factory=dict)

    def want(self, wanted: FetchWanted) -> None:
        """Rows that wait for the same object share one fetch of it."""
        key = (wanted.kind, wanted.object_id, wanted.payment_id, wanted.intent_id, wanted.replaces)
        first = self.fetches.setdefault(key, wanted)
        if first is not wanted:
            first.inbox_ids.extend(wanted.inbox_ids)
