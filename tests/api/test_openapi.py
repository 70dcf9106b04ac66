"""The OpenAPI page against routes, problems and docs/http-api.md, and against what is really answered."""

import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import httpx
import jsonschema_rs
import msgspec
import schemathesis
from hypothesis import HealthCheck, settings
from litestar import Litestar
from schemathesis.specs.openapi.checks import positive_data_acceptance

from payments.api.app import ROUTES
from payments.api.openapi import document
from payments.api.operations import OPERATIONS
from payments.api.problems import PROBLEMS, problem_type
from tests.api.driving import ApiProcess

WISHES = {f"/payments/{{paymentId}}/{what}" for what in ("capture", "void", "refunds")}
STRICTER = {"/payments", "/payments/authorize", "/webhooks/stripe"} | WISHES
DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"


def routes() -> set[tuple[str, str]]:
    app = Litestar(route_handlers=ROUTES, openapi_config=None)
    return {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path))
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS"
    }


def test_the_page_holds_every_route_and_no_other() -> None:
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes()


def test_every_problem_is_answered_by_some_operation_or_by_any_path() -> None:
    answered = {
        code
        for methods in document()["paths"].values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        for code in content["schema"].get("allOf", [{}, {}])[-1].get("properties", {}).get("code", {}).get("enum", ())
    }
    assert answered | {"not_found", "method_not_allowed"} == set(PROBLEMS)


def test_the_page_is_openapi_3_1(api: ApiProcess) -> None:
    answer = httpx.get(f"{api.url}/schema/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(document()))
    assert answer.json()["openapi"].startswith("3.1")
    for schema in answer.json()["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


def test_the_page_for_people_needs_nothing_from_elsewhere(api: ApiProcess) -> None:
    answer = httpx.get(f"{api.url}/schema")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    found: list[tuple[str, str]] = []
    anchors: set[str] = set()

    class Look(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link", "img", "iframe"}
            found.extend((name, value or "") for name, value in attrs if name in {"src", "href"})
            anchors.update(value or "" for name, value in attrs if name == "id")

    Look().feed(answer.text)
    assert {value for name, value in found if not value.startswith("#")} == {"/schema/openapi.json"}
    assert {value[1:] for _, value in found if value.startswith("#")} <= anchors
    for _, path in routes():
        assert path in answer.text
    for code in PROBLEMS:
        assert problem_type(code) in answer.text


def test_the_docs_list_every_problem_with_its_status_and_every_route() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \| (yes|no) \|", text, re.MULTILINE)
    assert rows == [(code, str(kind.status), "yes" if kind.retryable else "no") for code, kind in PROBLEMS.items()]
    for method, path in routes():
        assert f"`{method} {path}" in text
    assert problem_type("cart_has_live_payment") in text


def test_the_examples_of_the_docs_run(api: ApiProcess, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / ".payments").mkdir()
    (tmp_path / ".payments" / "dev.env").write_text(f"API_URL={api.url}\nAPI_KEY={api.key}\n")
    script = "\n".join(blocks).replace("wait=10", "wait=1").replace("curl ", "curl --fail ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in (
        '"paymentId"',
        "HTTP/1.1 200",
        "HTTP/1.1 304",
        '"signal"',
        '"nextCursor"',
        "payments_http_requests",
    ):
        assert expected in done.stdout


schema = schemathesis.openapi.from_dict(document())


def check_what_is_answered(case: schemathesis.Case, api: ApiProcess) -> None:
    # JSON Schema takes 1250.0 for an integer, we don't; a cursor or a signature that looks right need not be right, and
    # a key that looks new may stand for another request.
    excluded = [positive_data_acceptance] if case.path in STRICTER else []
    case.call_and_validate(
        base_url=api.url, headers={"Authorization": f"Bearer {api.key}"}, excluded_checks=list(excluded)
    )


def of_one_operation(name: str) -> Callable[..., None]:
    def test(case: schemathesis.Case, api: ApiProcess) -> None:
        check_what_is_answered(case, api)

    lenient = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    parametrized: Callable[..., None] = schema.include(operation_id=name).parametrize()(lenient(test))
    return parametrized


# A test of its own name for each: of tests that are called alike, pytest-xdist runs one.
for _operation in OPERATIONS:
    globals()[f"test_what_{_operation.name}_answers_is_what_the_page_says"] = of_one_operation(_operation.name)


def test_options_names_the_methods_of_the_path(api: ApiProcess) -> None:
    for path in {path for _, path in routes()}:
        answer = httpx.options(api.url + re.sub(r"{\w+}", "0197f2c4-0000-7000-8000-000000000001", path))
        known = {method for method, each in routes() if each == path}
        allowed = known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (204, allowed)
