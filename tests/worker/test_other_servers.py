"""Stripe doubles that are not ours: sparse headers, constant ids, a charge by its id only. No answer is lost for it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from tests.conftest import wait_until
from tests.worker.wishes import AMOUNT, PART, REFUND, request_refund, wish_for
from tests.worker.world import World


@contextmanager
def double(headers: dict[str, str]) -> Iterator[str]:
    """A server that answers every PaymentIntent and refund with success, and with these headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            payment_id, amount = form["metadata[paymentId]"][0], int(form["amount"][0])
            refund = {
                "id": "re_" + form.get("metadata[refundId]", [""])[0],
                "object": "refund",
                "amount": amount,
                "currency": "eur",
                "status": "succeeded",
                "payment_intent": form.get("payment_intent", [""])[0],
                "metadata": {name: form.get(f"metadata[{name}]", [""])[0] for name in ("paymentId", "refundId")},
            }
            intent = {
                "id": f"pi_{payment_id}",
                "object": "payment_intent",
                "amount": amount,
                "amount_received": amount,
                "currency": form.get("currency", ["eur"])[0],
                "status": "succeeded",
                "latest_charge": f"ch_{payment_id}",
                "livemode": False,
                "metadata": {"paymentId": payment_id},
            }
            body = json.dumps(refund if self.path == "/v1/refunds" else intent).encode()
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("headers", [{}, {"Request-Id": "req_always_the_same"}], ids=["no id", "one id for all"])
def test_every_answer_is_kept_whatever_ids_the_server_gives(world: World, headers: dict[str, str]) -> None:
    payments = [world.request() for _ in range(3)]
    with double(headers) as base:
        worker = world.start_worker(STRIPE_API_BASE=base)
        wait_until(lambda: world.queued() == 0)
        for one in payments:
            ((_, payload),) = world.answers(one)
            assert payload["object"]["id"] == f"pi_{one}"
            assert payload["requestId"] == headers.get("Request-Id")
        settled = "select count(*) from payments.payments where status = 'SUCCEEDED'"
        wait_until(lambda: world.row(settled) == (3,))
        worker.stop()
    assert {row[0] for row in world.rows("select stripe_request_id from payments.stripe_requests")} == {
        headers.get("Request-Id")
    }


def test_two_refunds_of_one_payment_may_be_answered_under_one_id(world: World) -> None:
    first = wish_for(world, REFUND, sends=False)
    refunds = [first.subject_id, request_refund(world, first.payment_id, AMOUNT - PART)]
    with double({"Request-Id": "req_always_the_same"}) as base:
        worker = world.start_worker(STRIPE_API_BASE=base)
        for refund_id in refunds:
            world.send({"paymentId": str(first.payment_id), "refundId": str(refund_id)}, queue=first.queue)
        done = "select refund_id, status from payments.refunds where payment_id = %s"
        wait_until(lambda: world.queued(first.queue) == 0 and len(world.answers(first.payment_id)) == len(refunds))
        wait_until(lambda: dict(world.rows(done, first.payment_id)) == dict.fromkeys(refunds, "PROCESSED"))
        worker.stop()
