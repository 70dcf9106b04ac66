"""One API call from parsed request to answer: validate, look the key up, execute, record; all in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from stripe_sandbox import idempotency, requestlog
from stripe_sandbox.call import Call
from stripe_sandbox.errors import Json, StripeError
from stripe_sandbox.expansion import expand
from stripe_sandbox.params import check
from stripe_sandbox.routes import find_route

if TYPE_CHECKING:
    from stripe_sandbox.sandbox import Sandbox


@dataclass(frozen=True)
class Request:
    """What came in; never holds the API key."""

    method: str
    path: str
    given: Json
    request_id: str
    key: str | None
    api_version: str | None = None

    @property
    def endpoint(self) -> str:
        """What an idempotency key is bound to."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """What goes out."""

    status: int
    body: bytes
    original_request: str | None = None
    replayed: bool = False
    executed: bool = False
    should_retry: bool | None = None


def encode(body: Json) -> bytes:
    """JSON as the wire carries it."""
    return msgspec.json.encode(body)


def error_answer(error: StripeError, request_id: str) -> Answer:
    """An error that was answered without executing anything."""
    return Answer(error.status, encode(error.body(request_id)), should_retry=error.should_retry)


def perform(
    sandbox: Sandbox, request: Request, *, fault: str | None = None, fails_with: StripeError | None = None
) -> Answer:
    """Execute the call or replay its first answer; commits the effect, the idempotency record, events and log together.

    ``fails_with``: answer this instead of the result (an ordered 500), recorded under the key like any 500.
    """
    with sandbox.store.transaction():
        answer = _replayed(sandbox, request) or _executed(sandbox, request, fails_with)
        requestlog.write(sandbox.store, sandbox.clock.now(), request, answer, fault)
    sandbox.wake()
    return answer


def _replayed(sandbox: Sandbox, request: Request) -> Answer | None:
    if request.key is None or request.method != "POST":
        return None
    try:
        idempotency.check_key(request.key)
        saved = idempotency.find(sandbox.store, _use(request, request.key), sandbox.clock.now())
    except StripeError as error:
        return error_answer(error, request.request_id)
    if saved is None:
        return None
    retry = None if saved.status < 400 else False
    return Answer(saved.status, saved.body, original_request=saved.request_id, replayed=True, should_retry=retry)


def _executed(sandbox: Sandbox, request: Request, fails_with: StripeError | None) -> Answer:
    store = sandbox.store
    try:
        route, ids = find_route(request.method, request.path)
        given = check(route.spec, request.given)
    except StripeError as error:
        return error_answer(error, request.request_id)
    call = Call(
        store=store,
        now=sandbox.clock.now(),
        webhooks=sandbox.webhooks,
        behaviours=sandbox.behaviours,
        request_id=request.request_id,
        idempotency_key=request.key if request.method == "POST" else None,
        api_version=request.api_version,
    )
    try:
        with store.effects():
            body = route.handler(call, ids, given)
            body = expand(store, body, given.get("expand", []))
        saved, answer = True, Answer(200, encode(body), executed=True)
    except StripeError as error:
        saved = error.saved
        answer = Answer(
            error.status, encode(error.body(request.request_id)), executed=saved, should_retry=error.should_retry
        )
    if fails_with is not None:
        saved, answer = (
            fails_with.saved,
            Answer(
                fails_with.status,
                encode(fails_with.body(request.request_id)),
                executed=True,
                should_retry=fails_with.should_retry,
            ),
        )
    if saved:
        _save(sandbox, request, answer)
    return answer


def refuse(sandbox: Sandbox, request: Request, error: StripeError, *, fault: str | None = None) -> Answer:
    """Answer an error without executing; a 500 is kept under its key as Stripe keeps it."""
    with sandbox.store.transaction():
        answer = _replayed(sandbox, request) if error.saved else None
        if answer is None:
            answer = error_answer(error, request.request_id)
            if error.saved:
                _save(sandbox, request, answer)
        requestlog.write(sandbox.store, sandbox.clock.now(), request, answer, fault)
    return answer


def _save(sandbox: Sandbox, request: Request, answer: Answer) -> None:
    if request.key is None or request.method != "POST":
        return
    kept = idempotency.Saved(answer.status, answer.body, request.request_id)
    idempotency.save(sandbox.store, _use(request, request.key), kept, sandbox.clock.now())


def _use(request: Request, key: str) -> idempotency.Use:
    return idempotency.Use(key, request.endpoint, idempotency.fingerprint(request.given))
