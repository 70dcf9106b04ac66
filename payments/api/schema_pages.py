"""`/schema`: the OpenAPI document for programs, and a page of it for people, without scripts or foreign parts."""

from collections.abc import Sequence
from html import escape
from typing import Any

import msgspec
from litestar import Response, get

from payments.api.openapi import document
from payments.api.problems import PROBLEMS, problem_type

_DOCUMENT = document()
_JSON = msgspec.json.encode(_DOCUMENT)
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}code,pre{font:14px ui-monospace,monospace}
pre{background:#f5f5f5;padding:.75rem;overflow-x:auto}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eee}
.method{display:inline-block;min-width:3.5rem;font-weight:700;color:#0a5}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}pre{background:#222}td,th{border-color:#333}}
"""


@get("/schema/openapi.json", name="schema_document", sync_to_thread=False)
def schema_document() -> Response[bytes]:
    """The OpenAPI document."""
    return Response(_JSON, media_type="application/json")


@get("/schema", name="schema_page", sync_to_thread=False)
def schema_page() -> Response[bytes]:
    """The page for people."""
    return Response(
        _PAGE,
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"},
    )


def render(openapi: dict[str, Any]) -> str:
    """The document as HTML."""
    info = openapi["info"]
    paragraphs = "".join(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n"))
    operations = [
        (method, path, operation) for path, methods in openapi["paths"].items() for method, operation in methods.items()
    ]
    contents = "".join(
        f'<li><a href="#{operation["operationId"]}">{_title(method, path)}</a> {escape(operation["summary"])}</li>'
        for method, path, operation in operations
    )
    sections = "".join(_operation(*each) for each in operations)
    schemas = "".join(
        f'<h3 id="schema-{name}">{name}</h3><p>{_text(schema.get("description", ""))}</p><pre>{_json(schema)}</pre>'
        for name, schema in openapi["components"]["schemas"].items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{info["title"]} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{info['title']} API <small>{info['version']}</small></h1>{paragraphs}"
        f'<p>For programs: <a href="/schema/openapi.json">openapi.json</a></p><ul>{contents}</ul>{sections}'
        f"<h2>Problems</h2>{_problems()}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = _table(
        ("parameter", "in", "meaning"),
        [
            (
                f"<code>{escape(each['name'])}</code>",
                each["in"],
                f"{_text(each['description'])} {_limits(each['schema'])}",
            )
            for each in operation["parameters"]
        ],
    )
    answers = _table(
        ("status", "meaning", "body"),
        [
            (status, _text(answer["description"]), ", ".join(_bodies(answer)))
            for status, answer in operation["responses"].items()
        ],
    )
    body = operation.get("requestBody")
    return (
        f'<h2 id="{operation["operationId"]}">{_title(method, path)}</h2>'
        f"<p>{_text(operation['summary'])}. {_text(operation.get('description', 'No key is needed.'))}</p>"
        + (f"<p>Body: {', '.join(_bodies(body))}</p>" if body else "")
        + parameters
        + answers
    )


def _title(method: str, path: str) -> str:
    return f'<code><span class="method">{method.upper()}</span> {escape(path)}</code>'


def _bodies(described: dict[str, Any]) -> list[str]:
    return [
        f"<code>{escape(media_type)}</code> {_link(content['schema'])}"
        for media_type, content in described.get("content", {}).items()
    ]


def _link(schema: dict[str, Any]) -> str:
    for each in (schema, *schema.get("allOf", ())):
        if "$ref" in each:
            name = each["$ref"].rsplit("/", 1)[-1]
            return f'<a href="#schema-{name}">{name}</a>'
    return ""


def _limits(schema: dict[str, Any]) -> str:
    limits = {name: value for name, value in schema.items() if name not in {"type", "description"}}
    return f"<br><code>{_json(limits)}</code>" if limits else ""


def _problems() -> str:
    rows = [
        (f"<code>{code}</code>", str(kind.status), escape(kind.title), f"<code>{problem_type(code)}</code>")
        for code, kind in PROBLEMS.items()
    ]
    return _table(("code", "status", "title", "type"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(markdown: str) -> str:
    """Escaped, with `code` as code."""
    parts = escape(markdown).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _json(value: Any) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


_PAGE = render(_DOCUMENT).encode()
