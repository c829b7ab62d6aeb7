"""The web application around one pipeline: predict, health, metadata, measures, documentation, and the routes that its parts bring."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from recipeline import measures
from recipeline.contracts import Route
from recipeline.errors import Problem, RecipeError, RecipelineError
from recipeline.serve import documentation, problems
from recipeline.serve.access import Guard, Limits
from recipeline.serve.answers import answer, dumps
from recipeline.serve.gate import Application, ClientGone, Exchange, Gate, State
from recipeline.serve.pool import Pool
from recipeline.serve.problems import GENERIC, MEDIA_TYPE, HTTPProblem
from recipeline.serve.rows import RowReader, example, parse

if TYPE_CHECKING:
    from recipeline.pipeline import Pipeline

BRINGERS = ("model", "preprocessor", "augmenter", "task")
"""The parts of a pipeline that may have `routes`: an attribute or a method that gives `contracts.Route`s."""


_log = logging.getLogger("recipeline.serve")


class Service:
    """What stands behind the routes: one pipeline, its request model, the threads it runs in."""

    def __init__(self, pipeline: Pipeline, limits: Limits, state: State, pool: Pool) -> None:
        self.pipeline, self.state, self.pool = pipeline, state, pool
        self.reader = RowReader(pipeline.schema, max_rows=limits.max_rows)
        self.routes = routes(pipeline)
        self.rows_path = documentation.rows_path(self.routes)
        self._rows = measures.counter("recipeline_rows_total", "Rows predicted")
        self._extra = measures.counter("recipeline_ignored_columns_total", "Columns in requests that the contract does not know")

    def work(self, body: bytes) -> tuple[bytes, int, int]:
        """The answer to a body, the number of its rows and of its unknown columns; blocking."""
        rows = self.reader.read(body)
        output = self.pipeline.predict(rows.frame) if len(rows) else None
        if output is None:
            return dumps({"predictions": [], "model_version": self.pipeline.version, "run_id": self.pipeline.run_id}), 0, rows.extra
        return answer(output, self.pipeline), len(rows), rows.extra

    async def predict(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        body = await exchange.json()
        content, rows, extra = await self.pool.run(self.work, body, deadline=exchange.deadline)
        self._rows.inc(rows)
        headers = {}
        if extra:
            self._extra.inc(extra)
            headers["x-ignored-columns"] = str(extra)
        return Response(content, media_type="application/json", headers=headers)

    async def live(self) -> Response:
        return Response(dumps({"status": "live"}), media_type="application/json")

    async def ready(self) -> Response:
        if self.state.draining:
            raise problems.busy("draining", "this server is stopping")
        if not self.state.ready:
            raise problems.busy("not-ready", self.state.reason)
        return Response(dumps({"status": "ready", "model_version": self.pipeline.version}), media_type="application/json")

    async def metadata(self) -> Response:
        return Response(dumps(self.facts()), media_type="application/json")

    async def metrics(self) -> Response:
        content, media_type = measures.exposition()
        return Response(content, headers={"content-type": media_type})

    def facts(self) -> dict[str, Any]:
        """What `/model/metadata` tells."""
        pipeline, kind = self.pipeline, type(self.pipeline.model)
        output = pipeline.task.output(pipeline.schema)
        return {
            "name": pipeline.facts.get("name"),
            "model": f"{kind.__module__}.{kind.__qualname__}",
            "model_version": pipeline.version,
            "run_id": pipeline.run_id,
            "schema": pipeline.schema.to_json(),
            "output": {"keys": output.keys, "values": output.values},
            "metrics": pipeline.facts.get("metrics"),
            "hpo": pipeline.facts.get("hpo"),
        }

    def self_test(self) -> None:
        """Predict the contract's own example; a model that cannot must not get traffic."""
        try:
            self.work(to_json(example(self.pipeline.schema)))
        except (RecipelineError, HTTPProblem) as error:
            _log.error("the self-test row was not predicted: %s", error)
            self.state.fail("the self-test row was not predicted")
        else:
            self.state.ready = True

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        begun: list[Route] = []
        try:
            await self.pool.run(self.self_test)
            for route in self.routes:
                begun.append(route)
                await self.call(route.start)
            yield
        finally:
            self.state.draining = True
            for route in reversed(begun):
                await self.call(route.stop)
            self.pool.close()

    async def call(self, function: Callable[..., Any] | None, *arguments: Any, deadline: float | None = None) -> Any:
        """A plugin's function, in a thread where it is an ordinary one."""
        if function is None:
            return None
        if inspect.iscoroutinefunction(function):
            return await self.pool.wait(function(*arguments), deadline=deadline)
        found = await self.pool.run(function, *arguments, deadline=deadline)
        return await self.pool.wait(found, deadline=deadline) if inspect.isawaitable(found) else found


def build(pipeline: Pipeline, *, guard: Guard, limits: Limits, state: State | None = None, pool: Pool | None = None) -> Gate:
    """The whole application for one pipeline; `State` tells its server where it stands."""
    service = Service(pipeline, limits, state or State(), pool or Pool())
    inner = FastAPI(
        title=str(pipeline.facts.get("name") or "recipeline"), version=pipeline.version, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json", lifespan=service.lifespan, redirect_slashes=False,
    )  # fmt: skip
    inner.exception_handler(HTTPProblem)(_problem)
    inner.exception_handler(RecipelineError)(_ours)
    inner.exception_handler(HTTPException)(_framework)
    inner.exception_handler(ClientGone)(_gone)
    inner.exception_handler(Exception)(_bug)
    own: list[tuple[str, str, Callable[..., Awaitable[Response]], str]] = [
        ("POST", service.rows_path, service.predict, "Predict one record or many"),
        ("GET", "/health/live", service.live, "Whether the process answers"),
        ("GET", "/health/ready", service.ready, "Whether it may get traffic: a model that predicted its example, and not stopping"),
        ("GET", "/model/metadata", service.metadata, "The input contract, metrics and tuning of the model"),
        ("GET", "/metrics", service.metrics, "Measures of this process, for Prometheus"),
    ]
    for method, path, endpoint, summary in own:
        inner.add_api_route(path, endpoint, methods=[method], summary=summary, operation_id=endpoint.__name__, response_class=Response)
    for route in service.routes:
        inner.add_api_route(
            route.path, _endpoint(service, route), methods=[route.method.upper()], summary=route.summary or None, response_class=Response
        )
    documented = documentation.Documentation(
        inner, service.reader, service.facts, service.routes, rows=service.rows_path, secured=bool(guard.keys)
    )
    inner.openapi = documented.openapi  # type: ignore[method-assign]
    inner.add_api_route("/docs", documented.page, methods=["GET"], include_in_schema=False, response_class=Response)
    application: Application = inner
    return Gate(application, guard, limits, service.state)


# --- routes that parts bring ---------------------------------------------------------------------------------------------


def routes(pipeline: Pipeline) -> tuple[Route, ...]:
    """The routes of a pipeline's parts. A model may answer POST /predict itself, and say so (`Route.instead`), where rows say badly
    what it is asked about: then rows are asked at /predict/rows.

    Raises RecipeError where two of them, or one of ours, have the same method and path.
    """
    ours = (documentation.PREDICT, ("POST", documentation.ROWS), *(("GET", path) for path in documentation.OWN))
    taken = dict.fromkeys(ours, "the server")
    found: list[Route] = []
    for role in BRINGERS:
        part = getattr(pipeline, role, None)
        brought = getattr(part, "routes", None)
        for route in (brought() if callable(brought) else brought) or ():
            if route in found:
                continue  # a part and its task may name the same one
            place = (route.method.upper(), route.path)
            instead = route.instead and role == "model" and place == documentation.PREDICT
            if place in taken and not instead:
                message = f"{type(part).__name__} brings {' '.join(place)}, which {taken[place]} has already"
                raise RecipeError(Problem("route-taken", (role,), message, "the route needs another path"))
            taken[place] = type(part).__name__
            found.append(route)
    return tuple(found)


def _endpoint(service: Service, route: Route) -> Callable[[Request], Awaitable[Response]]:
    parameters = inspect.signature(route.handler).parameters
    handler = partial(route.handler, version=service.pipeline.version) if "version" in parameters else route.handler
    wants = bool(set(parameters) - {"version"})

    async def endpoint(request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        asked = None if route.request is None else await _asked(route.request, request, exchange)
        given = await service.call(handler, *([asked] if wants else []), deadline=exchange.deadline)
        if route.response is not None and not isinstance(given, BaseModel):
            given = route.response.model_validate(given)
        if isinstance(given, BaseModel):
            return Response(given.model_dump_json(by_alias=True), media_type="application/json")
        return Response(dumps(given), media_type="application/json")

    return endpoint


async def _asked(model: type[BaseModel], request: Request, exchange: Exchange) -> BaseModel:
    """The request model of a route, from the body, or from the query where a method has none; parts of the path are added."""
    try:
        if request.method in {"GET", "DELETE"}:
            return model.model_validate_strings({**request.query_params, **request.path_params})
        body = await exchange.json()
        document = parse(body)
        if request.path_params and isinstance(document, dict):
            body = json.dumps({**document, **request.path_params}).encode()
        return model.model_validate_json(body)
    except ValidationError as error:
        listed: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
        mistakes = [{"pointer": problems.pointer(*item["loc"]), "detail": item["msg"]} for item in listed[:100]]
        raise HTTPProblem(422, "invalid-request", "the request does not fit; see /docs", errors=mistakes) from None


# --- errors --------------------------------------------------------------------------------------------------------------


async def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPProblem)
    body = problem.body(request.scope["exchange"].id, request.url.path)
    return Response(body, problem.status, {**problem.headers, "content-type": MEDIA_TYPE})


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, RecipelineError)
    problem = problems.of(error)
    if problem.status >= 500:
        _log.error("request %s: %s", request.scope["exchange"].id, error, exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)
    return await _problem(request, problem)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slugs = {404: ("no-such-path", "there is nothing here; see /docs"), 405: ("wrong-method", "this path has no such method; see /docs")}
    slug, detail = slugs.get(error.status_code, ("http", problems.public(str(error.detail))))
    return await _problem(request, HTTPProblem(error.status_code, slug, detail, headers=error.headers))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the measures do


async def _bug(request: Request, _: Exception) -> Response:
    return await _problem(request, HTTPProblem(500, "bug", GENERIC))  # the gate logs what was raised
