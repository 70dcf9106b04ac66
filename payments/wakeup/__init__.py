"""The room of wake-ups: telling other processes at once that there is work, and waiting for such word.

Wake-ups only save time. Every waiter also polls, so one that is lost, late or doubled costs milliseconds, nothing else.
"""

from payments.wakeup.listener import Listener, Wakeup
from payments.wakeup.notifier import Notifier
from payments.wakeup.poll_interval import PollInterval

__all__ = ["INBOX", "OUTBOX", "QUEUE", "SETTLED", "Listener", "Notifier", "PollInterval", "Wakeup"]

OUTBOX = "payments_outbox"  # outbox rows were committed
QUEUE = "payments_queue"  # messages came to a queue; payload: its name
INBOX = "payments_inbox"  # inbox rows were committed
SETTLED = "payments_settled"  # a payment settled; payload: its id
