"""The signature check: what Stripe signs is believed, all else is refused with a reason and never an exception."""

import hmac
from hashlib import sha256

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from payments.webhooks.signature import HEADER_BYTES_MAX, SIGNATURES_MAX, TOLERANCE_S, find_fault

SECRET = "whsec_tests"
OLD_SECRET = "whsec_before_the_rotation"
NOW = 1_900_000_000
BODY = b'{"id":"evt_1"}'


def sign(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()


def header(*signatures: str, at: int | str = NOW) -> bytes:
    return ",".join([f"t={at}", *(f"v1={signature}" for signature in signatures)]).encode()


def fault(value: bytes | None, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> str | None:
    return find_fault(value, body, secrets, NOW)


def test_what_stripes_own_library_signs_is_believed() -> None:
    text = stripe.WebhookSignature.generate_signature_header(BODY.decode(), SECRET, timestamp=NOW)
    assert fault(text.encode()) is None


@pytest.mark.parametrize(
    "value",
    [
        header(sign()),
        header("0" * 64, sign()),
        header(sign(), "0" * 64),
        header(sign(secret=OLD_SECRET), sign()),
        f"t={NOW},v1={sign()},v0={'0' * 64}".encode(),
        f"v0=x,scheme=y,v1={sign()} , t={NOW}".encode(),
        header(sign(at=NOW - TOLERANCE_S), at=NOW - TOLERANCE_S),
        header(sign(at=NOW + TOLERANCE_S), at=NOW + TOLERANCE_S),
    ],
)
def test_signed_delivery_is_believed(value: bytes) -> None:
    assert fault(value) is None


def test_delivery_is_believed_for_five_minutes() -> None:
    """As Stripe's own libraries do (https://docs.stripe.com/webhooks#replay-attacks), in figures of the test's own."""
    for at in (NOW - 290, NOW + 290):
        assert fault(header(sign(at=at), at=at)) is None
    for at in (NOW - 310, NOW + 310):
        assert fault(header(sign(at=at), at=at)) is not None


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes tells nothing of how much of a guess was right; nor does which secret comes first."""
    compared: list[tuple[str, str]] = []

    def compare(ours: str, theirs: str) -> bool:
        compared.append((ours, theirs))
        return ours == theirs

    monkeypatch.setattr("payments.webhooks.signature.hmac.compare_digest", compare)
    guess = "0" * 64
    assert fault(header(sign(), guess), secrets=(SECRET, OLD_SECRET)) is None
    wanted = [sign(), sign(secret=OLD_SECRET)]
    assert compared == [(ours, theirs) for ours in wanted for theirs in (sign(), guess)]


def test_both_secrets_of_a_rotation_are_believed() -> None:
    for secret in (SECRET, OLD_SECRET):
        assert fault(header(sign(secret=secret)), secrets=(SECRET, OLD_SECRET)) is None
    assert fault(header(sign(secret="whsec_third")), secrets=(SECRET, OLD_SECRET)) is not None


HOSTILE: list[bytes | None] = [
    None,
    b"",
    b",",
    b"=",
    b"t",
    b"t=",
    b"v1=",
    b"nonsense",
    f"t={NOW}".encode(),
    f"v1={sign()}".encode(),
    header("", at=NOW),
    header(sign()[:-1]),
    header(sign() + "0"),
    header(sign().upper()),
    header("é" * 64),
    header("0" * 64),
    header(sign(secret="")),
    header(sign(secret=" ")),
    header(sign(at=NOW - TOLERANCE_S - 1), at=NOW - TOLERANCE_S - 1),
    header(sign(at=NOW + TOLERANCE_S + 1), at=NOW + TOLERANCE_S + 1),
    header(sign(at=NOW * 1000), at=NOW * 1000),
    header(sign(), at=f"{NOW},t={NOW}"),
    header(sign(), at=f"{NOW}.0"),
    header(sign(), at=f"+{NOW}"),
    header(sign(), at=f"-{NOW}"),
    header(sign(), at="1_900_000_000"),
    header(sign(), at="٣" * 10),
    header(sign(), at="9" * 5_000),
    header(sign(), at="NaN"),
    header(sign()) + b"," + header(sign()),  # two headers, joined
    header(*[sign()] * (SIGNATURES_MAX + 1)),
    header(sign()) + b"," + b"x" * HEADER_BYTES_MAX,
    header(sign()) + b"\xff",
    header(sign()).decode().encode("utf-16"),
    b"\x00" * 100,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_header_is_refused(value: bytes | None) -> None:
    assert fault(value)


@pytest.mark.parametrize("secrets", [(), ("",), (" ", "\t")])
def test_without_a_secret_nothing_is_believed(secrets: tuple[str, ...]) -> None:
    for secret in ("", " ", SECRET):
        assert fault(header(sign(secret=secret)), secrets=secrets)


def test_changed_body_is_refused() -> None:
    for body in (BODY + b" ", BODY[:-1], b"", b"\xff\xfe", BODY.replace(b"1", b"2")):
        assert fault(header(sign()), body)


@given(st.binary(max_size=300), st.binary(max_size=200))
def test_no_header_and_no_body_raises_or_is_believed(value: bytes, body: bytes) -> None:
    assert fault(value, body)


@given(st.text(max_size=100), st.lists(st.text(max_size=70), max_size=4), st.binary(max_size=50))
def test_nothing_that_looks_like_a_header_raises_or_is_believed(at: str, signatures: list[str], body: bytes) -> None:
    value = ",".join([f"t={at}", *(f"v1={signature}" for signature in signatures)])
    assert fault(value.encode("utf-8", "surrogatepass"), body)
