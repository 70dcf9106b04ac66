"""Form bodies: what the official client encodes, the sandbox decodes (https://docs.stripe.com/api)."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe._encode import _api_encode

from stripe_sandbox.errors import StripeError
from stripe_sandbox.forms import decode_form

NAMES = st.text(alphabet="abcdefgh_", min_size=1, max_size=6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAVES = TEXTS | st.integers().map(str) | st.sampled_from(["true", "false"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_decoding_is_the_inverse_of_the_clients_encoding(params: dict[str, object]) -> None:
    body = urlencode(list(_api_encode(params)))
    assert decode_form(body) == params


@given(st.text(max_size=60))
def test_any_text_decodes_or_is_refused(text: str) -> None:
    try:
        decode_form(text)
        status = 400
    except StripeError as error:
        status = error.status
    assert status == 400


@pytest.mark.parametrize("text", ["&".join(f"a{n}=1" for n in range(2001)), "a" + "[b]" * 9 + "=1"])
def test_bounds_hold(text: str) -> None:
    with pytest.raises(StripeError):
        decode_form(text)


def test_empty_brackets_append() -> None:
    assert decode_form("expand[]=a&expand[]=b") == {"expand": ["a", "b"]}
