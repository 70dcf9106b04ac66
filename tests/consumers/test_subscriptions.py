"""Names, patterns and starting points, and what is decided on them."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.consumers.subscriptions import (
    LASTING_QUEUES,
    ROUTING_KEYS,
    SERVICE_QUEUES,
    Found,
    Refusal,
    decide_addition,
    decide_new_password,
    decide_removal,
    matching,
    parse_name,
    parse_patterns,
    parse_start,
)
from tests.development.databases import Database

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOTHING = Found(has_lane=False, patterns=(), role="consumer_fraud", role_exists=False, role_reads=False, taken=())
founds = st.builds(
    Found,
    has_lane=st.booleans(),
    patterns=st.just(("payment.requested",)),
    role=st.just("consumer_fraud"),
    role_exists=st.booleans(),
    role_reads=st.booleans(),
    taken=st.sampled_from([(), ("q_fraud",)]),
)
names = st.sampled_from(["fraud", "ordering", "payment_requested", "void_requested"])
starts = st.none() | st.sampled_from(["now", "beginning", NOW - timedelta(days=1), NOW + timedelta(seconds=1)])


@pytest.mark.parametrize("name", ["fraud", "f", "f_2", "f" * 47])
def test_name_is_taken_as_it_is(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["", "Fraud", "2f", "_f", "f-2", "f" * 48, "fraud\n", 'f"; drop table x', "ﬁ", "f.x"])
def test_name_that_could_be_no_queue_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must match"):
        parse_name(name)


def test_patterns_are_keys_or_wildcards_without_repetition() -> None:
    text = "payment.requested, payment.*,#,dispute.#,*.requested,payment.requested"
    assert parse_patterns(text) == ("payment.requested", "payment.*", "#", "dispute.#", "*.requested")
    assert matching("#") == list(ROUTING_KEYS)
    assert matching("dispute.#") == ["dispute.opened", "dispute.closed"]
    assert matching("payment.*") == [key for key in ROUTING_KEYS if key.startswith("payment.")]


@pytest.mark.parametrize(
    "text", ["", "payment", "payment.reqeusted,dispute.opened", "payment-requested", "a.*", "payment.**"]
)
def test_unknown_events_are_refused_with_the_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"no event matches .*dispute\.opened, dispute\.closed"):
        parse_patterns(text)


@pytest.mark.every_postgres
@pytest.mark.parametrize(
    "pattern",
    [
        *("payment.*", "#", "*", "*.*", "dispute.#", "#.closed", "payment.action-required", "payment.a*", "p#d"),
        *("", ".#", "#.", "a..b", "**", "##", "*#", "#*", "pay ment.*", "a!", "#" * 300),
        *("Payment.requested", "payment_requested"),
    ],
)
def test_patterns_match_as_pgmq_would(module_database: Database, pattern: str) -> None:
    routed = []
    with module_database.connect() as conn:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute("select pgmq.create('probe')")
                conn.execute("select pgmq.bind_topic(%s, 'probe')", (pattern,))
                for key in ROUTING_KEYS:
                    query = "select from pgmq.test_routing(%s) where queue_name = 'probe'"
                    routed += [key] if conn.execute(query, (key,)).fetchall() else []
        except psycopg.errors.RaiseException:
            routed = []
    assert matching(pattern) == routed


def test_start_is_a_word_or_a_time_with_its_zone() -> None:
    assert parse_start("now") == "now"
    assert parse_start("beginning") == "beginning"
    assert parse_start("2026-01-31T12:00:00Z") == NOW
    assert parse_start("2026-01-31T13:00:00+01:00") == datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-31T12:00:00", "2026-01-31", "2026-13-01T00:00:00Z", "1769860800"]
)
def test_start_without_a_clear_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with its zone"):
        parse_start(text)


@given(name=names, found=founds, patterns=st.none() | st.just(("#",)), start=starts)
def test_decide_addition_makes_nothing_twice_and_never_a_reader_of_the_services_queues(
    name: str, found: Found, patterns: tuple[str, ...] | None, start: datetime | None
) -> None:
    match decide_addition(name, found, patterns, start, NOW):
        case Refusal(why, advice):
            assert why
            assert advice
        case "queue_and_role":
            assert not (found.has_lane)
            assert not (found.taken)
            assert not (found.role_exists)
            assert not (found.role_reads)
            assert patterns is not None
            assert not (isinstance(start, datetime) and start > NOW)
            assert name not in SERVICE_QUEUES
        case "role":
            assert found.has_lane
            assert not (found.role_exists)
            assert not (found.role_reads)
            assert (patterns, start) == (None, None)
            assert name not in SERVICE_QUEUES


def test_decide_addition_says_yes_to_what_is_new() -> None:
    assert decide_addition("fraud", NOTHING, ("#",), None, NOW) == "queue_and_role"
    assert decide_addition("fraud", NOTHING, ("#",), NOW, NOW) == "queue_and_role"
    assert decide_addition("ordering", msgspec.structs.replace(NOTHING, has_lane=True), None, None, NOW) == "role"


@given(name=names, found=founds, keep_queue=st.booleans())
def test_decide_removal_keeps_what_the_service_needs(name: str, found: Found, *, keep_queue: bool) -> None:
    refusal = decide_removal(name, found, keep_queue=keep_queue)
    if name in SERVICE_QUEUES or (name in LASTING_QUEUES and not keep_queue):
        assert refusal is not None
    else:
        assert (refusal is None) == (found.has_lane or found.role_reads)


@given(found=founds)
def test_decide_new_password_needs_a_role(found: Found) -> None:
    assert (decide_new_password("fraud", found) is None) == found.role_reads
