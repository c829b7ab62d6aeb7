"""OpenAPI of a served pipeline, a page that shows it, and a curl to start from; nothing of it loads from another host."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from recipeline.serve.problems import MEDIA_TYPE
from recipeline.serve.rows import example

if TYPE_CHECKING:
    from recipeline.contracts import Route
    from recipeline.schema import InputSchema
    from recipeline.serve.rows import RowReader

PREDICT, ROWS = ("POST", "/predict"), "/predict/rows"
OWN = ("/health/live", "/health/ready", "/model/metadata", "/metrics", "/docs", "/openapi.json")

_REF = "#/components/schemas/{model}"
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `pointer` points into the rows in the order sent: /rows/3/age; a single record is row 0.",
    "required": ["type", "title", "status", "detail", "instance", "slug", "request_id"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"},
        "instance": {"type": "string"}, "slug": {"type": "string"}, "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string"}, "row": {"type": "integer"}, "column": {"type": "string"}, "detail": {"type": "string"},
                },
            },
        },
    },
}  # fmt: skip
_ANSWER = {
    "type": "object",
    "required": ["predictions", "model_version", "run_id"],
    "properties": {
        "predictions": {
            "type": "array",
            "description": "One per row of output, in the order asked. A number that is not finite is null.",
            "items": {
                "type": "object",
                "properties": {"prediction": {}, "probabilities": {"type": "object", "additionalProperties": {"type": ["number", "null"]}}},
            },
        },
        "model_version": {"type": "string"},
        "run_id": {"type": "string"},
    },
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f3f1;border-radius:4px}"
    "code{padding:.1em .3em}pre{padding:.8rem;overflow-x:auto}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #ddd}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}code,pre{background:#262626}th,td{border-color:#3a3a3a}}"
)


def rows_path(routes: Sequence[Route]) -> str:
    """Where rows are asked: /predict, unless the model answers something else there."""
    return PREDICT[1] if own_predict(routes) is None else ROWS


def own_predict(routes: Sequence[Route]) -> Route | None:
    """The model's route in the place of ours."""
    return next((route for route in routes if (route.method.upper(), route.path) == PREDICT), None)


def curl(schema: InputSchema, url: str, *, secured: bool, routes: Sequence[Route] = ()) -> str:
    """A command that asks for the prediction of an example record and works as printed.

    routes  those of the model's parts: one at POST /predict is asked with the first of the `examples` of its request
    """
    key = ' -H "Authorization: Bearer $RECIPELINE_API_KEY"' if secured else ""
    own = own_predict(routes)
    shown = own.request.model_json_schema().get("examples", ()) if own is not None and own.request is not None else ()
    path, body = ("/predict", shown[0]) if shown else (rows_path(routes), example(schema))
    return f"curl -s {url}{path} -H 'Content-Type: application/json'{key} -d {shlex.quote(json.dumps(body))}"


class Documentation:
    """What `/openapi.json` and `/docs` show of an application."""

    def __init__(
        self,
        inner: FastAPI,
        reader: RowReader,
        facts: Callable[[], Mapping[str, Any]],
        routes: Sequence[Route],
        *,
        rows: str = "/predict",
        secured: bool,
    ) -> None:
        self.inner, self.reader, self.facts, self.routes, self.secured = inner, reader, facts, routes, secured
        self.rows = rows
        self._made: dict[str, Any] | None = None

    def openapi(self) -> dict[str, Any]:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def page(self) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return Response(self._html(), media_type="text/html", headers={"content-security-policy": policy})

    # --- OpenAPI -------------------------------------------------------------------------------------------------------

    def _make(self) -> dict[str, Any]:
        made = get_openapi(title=self.inner.title, version=self.inner.version, routes=self.inner.routes)
        wanted: list[tuple[Any, Any]] = [(self.reader.record, "validation"), (self.reader.envelope, "validation")]
        for route in self.routes:
            wanted += [(route.request, "validation")] if route.request else []
            wanted += [(route.response, "serialization")] if route.response else []
        refs, found = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
        schemas = {**found.get("$defs", {}), "Problem": _PROBLEM, "Answer": _ANSWER}
        made["components"] = {"schemas": schemas}
        if self.secured:
            bearer, header = {"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "X-API-Key"}
            made["components"]["securitySchemes"] = {"bearer": bearer, "header": header}
            made["security"] = [{"bearer": []}, {"header": []}]
        record, envelope = refs[(self.reader.record, "validation")], refs[(self.reader.envelope, "validation")]
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["responses"] = _responses(path, self.rows)
                if path.startswith("/health/"):
                    operation["security"] = []
        operation = made["paths"][self.rows]["post"]
        forms = {"anyOf": [record, {"type": "array", "items": record}, envelope]}
        operation["requestBody"] = _json_body(forms, example(self.reader.schema))
        for route in self.routes:
            operation = made["paths"][route.path][route.method.lower()]
            if route.response:
                answer = refs[(route.response, "serialization")]
                operation["responses"]["200"] = {"description": "OK", "content": {"application/json": {"schema": answer}}}
            if route.request and route.method.upper() in {"GET", "DELETE"}:
                operation["parameters"] = _parameters(route.request.model_json_schema(ref_template=_REF), route.path)
            elif route.request:
                operation["requestBody"] = _json_body(refs[(route.request, "validation")])
        return made

    # --- the page ------------------------------------------------------------------------------------------------------

    def _html(self) -> str:
        made, schema = self.openapi(), self.reader.schema
        rows = "".join(
            f"<tr><td><code>{operation.upper()} {escape(path)}</code></td><td>{escape(about.get('summary', ''))}</td></tr>"
            for path, operations in made["paths"].items()
            for operation, about in operations.items()
        )
        properties = made["components"]["schemas"]["Record"].get("properties", {})
        columns = "".join(
            f"<tr><td><code>{escape(column.name)}</code></td><td>{escape(column.dtype)}</td><td>{'no' if column.optional else 'yes'}</td>"
            f"<td>{escape(properties[column.name].get('description', ''))}</td></tr>"
            for column in schema.columns
        )
        shown = escape(curl(schema, "http://HOST:PORT", secured=self.secured, routes=self.routes))
        facts = self.facts()
        return (
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{escape(made['info']['title'])}</title><style>{_STYLE}</style>"
            f"<h1>{escape(made['info']['title'])}</h1>"
            f"<p>{escape(str(facts['model']))}, version <code>{escape(str(facts['model_version']))}</code>"
            f"<h2>Ask</h2><pre>{shown}</pre>"
            f"<p>Rows are asked at <code>{self.rows}</code>: "
            'one record, a list of records, or <code>{"records": […]}</code>. The answer is '
            '<code>{"predictions": […], "model_version", "run_id"}</code> in the order asked.'
            f"<h2>Columns</h2><table><tr><th>name<th>type<th>needed<th></tr>{columns}</table>"
            "<p>Other columns are ignored; the header <code>X-Ignored-Columns</code> counts them."
            f"<h2>Paths</h2><table>{rows}</table>"
            "<h2>Errors</h2><p>problem+json (RFC 9457) with <code>slug</code>, <code>request_id</code> and, for rows, "
            "<code>errors</code> with a <code>pointer</code> such as <code>/rows/3/age</code>: row 3 of the request in the order sent, "
            "whichever of the three forms it had. The whole interface: <a href=openapi.json>openapi.json</a>.</html>"
        )


def _responses(path: str, rows: str) -> dict[str, Any]:
    kinds = {"/metrics": ("text/plain", {"type": "string"}), rows: ("application/json", {"$ref": _REF.format(model="Answer")})}
    media, schema = kinds.get(path, ("application/json", {}))
    headers = {}
    if path == rows:
        counted = {"description": "columns that the contract does not know", "schema": {"type": "integer"}}
        headers = {"headers": {"X-Ignored-Columns": counted}}
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}
    return {"200": {"description": "OK", "content": {media: {"schema": schema}}, **headers}, "default": problem}


def _json_body(schema: Mapping[str, Any], shown: Any = None) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, **({"example": shown} if shown is not None else {})}}}


def _parameters(schema: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in path else "query",
            "required": name in required or f"{{{name}}}" in path,
            "schema": about,
        }
        for name, about in schema.get("properties", {}).items()
    ]
