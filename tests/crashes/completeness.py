"""Everything in the product that commits, asks the database or calls Stripe; and what no life of a payment comes to."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from payments.database.queries import load_queries, rooms

ROOT = Path(__file__).parents[2]
# Rooms of commands and of development, and what commits nothing; whatever else there is belongs to processes.
OTHERS = {"commands", "consumers", "database", "demo", "development", "doctor", "domain"}
OTHERS_QUERIES = {"api_keys", "consumers", "dead_letters", "doctor", "migrate", "rebase"}
COMMITTING = {"transaction", "statements", "connection"}

OPERATORS = "an operator's command, no process"
RACE = "two workers must hold one command or row at once: tests/worker/test_calls_in_doubt.py stages it"
TWICE = "only when the commit of an answer was in doubt: tests/worker/test_calls_in_doubt.py"
OF_OURS = "only a fault of our own code or schema leads there: tests/worker/test_handling.py makes one"
SHUTDOWN = "at SIGTERM, for what had not begun yet: tests/worker/test_shutdown.py"
NOT_OF_STRIPE = "only when Stripe refuses to be read: tests/inbox/test_fetching.py, tests/reconciler/test_watches.py"
TWO = "Stripe has two objects for one wish, which the system never makes: tests/reconciler/test_calls.py makes them"
CONFLICT = "only when Stripe contradicts our books, which the system never makes it do: tests/inbox/test_refunds.py"
RESTORED = "only after a restore: tests/restore/test_59_holding.py"

# What stays out of reach of the lives, or is reached by chance, each with its reason.
UNREACHED_QUERIES: dict[str, str] = {
    "api.is_catching_up": RESTORED,
    "connections.speak_plainly": OPERATORS,
    "inbox.claim_leased": NOT_OF_STRIPE,
    "inbox.count_dead": OPERATORS,
    "inbox.find_conflict": CONFLICT,
    "inbox.find_rival": CONFLICT,
    "inbox.list_dead": OPERATORS,
    "inbox.put_off_by_age": "only when an event overtakes what it builds on: tests/inbox/test_orders_recorded.py",
    "inbox.revive": OPERATORS,
    "inbox.settle_dead": OPERATORS,
    "inbox.show_rows": OPERATORS,
    "inbox.summarize_waiting": OPERATORS,
    "outbox.lag": OPERATORS,
    "queues.postpone_faulty": OF_OURS,
    "reconciler.count_unweighed": RESTORED,
    "reconciler.end_listing": RESTORED,
    "reconciler.leave_dead_letter": TWO,
    "reconciler.park_call": TWO,
    "reconciler.read_listing": RESTORED,
    "reconciler.watch_at_once": OPERATORS,
    "worker.kept_answer": TWICE,
    "worker.leave_dead_letter": RACE,
    "worker.unpark_call": OPERATORS,
}
UNREACHED_PLACES: dict[str, str] = {
    "payments/inbox/fetching.py:_bury": NOT_OF_STRIPE,
    "payments/inbox/fetching.py:_put_off": NOT_OF_STRIPE,
    "payments/inbox/fetching.py:hand_back": "only when a recorder has sixteen questions open, or stops",
    "payments/inbox/recorder.py:Recorder._record_failure": OF_OURS,
    "payments/reconciler/calls.py:park": TWO,
    "payments/reconciler/listing.py:_compare": RESTORED,
    "payments/reconciler/listing.py:_end": RESTORED,
    "payments/reconciler/listing.py:_is_weighed": RESTORED,
    "payments/reconciler/listing.py:_note": RESTORED,
    "payments/reconciler/listing.py:list_since_backup": RESTORED,
    "payments/reconciler/watching.py:_again": NOT_OF_STRIPE,
    "payments/worker/handling.py:Handler._count_fault": OF_OURS,
    "payments/worker/handling.py:Handler._dead_letter": OF_OURS,
    "payments/worker/handling.py:Handler._hand_back": OF_OURS,
    "payments/worker/handling.py:Handler._hold": "only when a lease is nearly over: tests/worker/test_leases.py",
    "payments/worker/worker.py:Worker._hand_back": SHUTDOWN,
}


class Place(NamedTuple):
    """A block that commits at its end, or a call: lines of a module."""

    name: str
    module: str
    lines: range


def named_queries() -> set[str]:
    return {f"{room}.{name}" for room in set(rooms()) - OTHERS_QUERIES for name in load_queries(room)}


def commit_places() -> list[Place]:
    """Every `async with transaction(…)` and its like in the rooms of the processes; `name` is unique."""
    return [
        Place(f"{module}:{function}" + (f" ({nth})" if nth > 1 else ""), module, range(node.lineno, last + 1))
        for module, tree in _modules(_rooms())
        for function, inner in _functions(tree)
        for nth, (node, last) in enumerate(_committing(inner), start=1)
    ]


def gateway_methods() -> list[Place]:
    """Every method of the gateway that is a call to Stripe, and that somebody makes."""
    ((module, tree),) = _modules(["stripe_gateway/gateway.py"])
    used = {node.attr for _, other in _modules(_rooms()) for node in ast.walk(other) if isinstance(node, ast.Attribute)}
    return [
        Place(function, module, range(node.lineno, (node.end_lineno or 0) + 1))
        for function, node in _functions(tree)
        if function.startswith("StripeGateway.") and function.rpartition(".")[2] in used
        if isinstance(node, ast.AsyncFunctionDef)
    ]


def unreached(places: list[Place], sites: set[str], how: tuple[str, ...]) -> set[str]:
    """Those of which no line led to a point; `how`: `commit`, `passed`."""
    reached: set[tuple[str, int]] = set()
    for site in sites:
        way, _, place = site.partition(" ")
        if way in how:
            module, _, line = place.rpartition(":")
            reached.add((module, int(line)))
    return {place.name for place in places if not any((place.module, line) in reached for line in place.lines)}


def _rooms() -> list[str]:
    return [path.name for path in (ROOT / "payments").iterdir() if path.is_dir() and path.name not in OTHERS]


def _modules(places: list[str]) -> Iterator[tuple[str, ast.Module]]:
    for room in places:
        path = ROOT / "payments" / room
        for module in [path] if path.suffix else sorted(path.rglob("*.py")):
            yield str(module.relative_to(ROOT)), ast.parse(module.read_text())


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for one in inner:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + one.name, one


def _committing(function: ast.AST) -> Iterator[tuple[ast.AsyncWith | ast.With, int]]:
    for node in ast.walk(function):
        if isinstance(node, ast.AsyncWith | ast.With):
            called = [one.context_expr for one in node.items]
            names = {_name(one.func) for one in called if isinstance(one, ast.Call)}
            if names & COMMITTING:
                yield node, node.end_lineno or node.lineno


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
