"""What the demo ends in: what happened to how many payments, and both books side by side."""

from collections import Counter
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from payments.demo.books import Books, Sums
from payments.demo.shop import Outcome
from payments.demo.stories import STORIES

SUM_CHARACTERS = 9  # a sum is shown whole, also in 80 columns; cut off, it could be compared with nothing
LINES = {
    "still held": "held",
    "charged": "charged",
    "given back": "returned",
    "disputed, open or lost": "disputed",
}


def table_of_stories(outcomes: list[Outcome], books: Books) -> Table:
    """One line a story: how many, how their payments ended, and our sums for them."""
    table = Table(title="What happened (USD, in cents)", box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("story", no_wrap=True)
    table.add_column("ended as", no_wrap=True)
    for name in ("held", "charged", "given back"):
        table.add_column(name, justify="right", min_width=SUM_CHARACTERS + 1)
    for story in STORIES:
        told = [outcome for outcome in outcomes if outcome.story is story]
        if told:
            ends = Counter(outcome.payment["status"] for outcome in told)
            sums = total(books.ours[outcome.payment["paymentId"]] for outcome in told)
            ended = "\n".join(f"{count:>4} {status}" for status, count in sorted(ends.items()))
            table.add_row(story.name, ended, str(sums.held), str(sums.charged), str(sums.returned))
    return table


def table_of_books(books: Books) -> Table:
    """Our sums, Stripe's, and the difference, which is nothing when all is well."""
    ours, stripes = total(books.ours.values()), total(books.stripes.values())
    table = Table(title="Both books (USD, in cents)", box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("", no_wrap=True, min_width=24)
    for name in ("ours", "Stripe's", "difference"):
        table.add_column(name, justify="right", min_width=SUM_CHARACTERS + 3)
    for line, field in LINES.items():
        our, their = getattr(ours, field), getattr(stripes, field)
        colour = "green" if our == their else "red"
        table.add_row(line, str(our), str(their), f"[{colour}]{our - their}[/{colour}]")
    return table


def total(sums: Iterable[Sums]) -> Sums:
    """All together."""
    return sum(sums, Sums())
