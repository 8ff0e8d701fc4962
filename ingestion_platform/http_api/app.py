"""The ASGI application: paths, their handlers, and errors as problems."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ingestion_platform import __version__
from ingestion_platform.errors import Transient
from ingestion_platform.escaping import visible
from ingestion_platform.http_api import routes
from ingestion_platform.http_api.api import Api
from ingestion_platform.http_api.documents import documents
from ingestion_platform.http_api.media import RECORDS
from ingestion_platform.http_api.middleware import OuterMiddleware
from ingestion_platform.http_api.openapi import (
    DESCRIPTION,
    components,
    one_operation,
    record_schema,
    records_operation,
)
from ingestion_platform.http_api.problems import Problem, status_problem, unavailable
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, readable

LOG = logging.getLogger("ingestion_platform.http_api")

SAVE = 5.0
"""Seconds between two writes of the counts."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def build(settings: Settings, streams: Mapping[str, Stream]) -> FastAPI:
    """Return the API of these streams as an ASGI application, its state in `app.state.api`.

    Its lifespan connects to Kafka, and at the end delivers what is queued. The paths of a stream
    whose contract cannot be read answer 503, and the error is logged.
    """
    usable, failed = readable(streams.values())
    api = Api(settings, {stream.name: stream for stream in usable})
    app = FastAPI(
        title="Ingestion platform: the HTTP API",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,  # FastAPI's own pages load scripts from another server
        redirect_slashes=False,
        lifespan=partial(_lifespan, api),
    )
    app.state.api = api
    app.add_middleware(OuterMiddleware, api=api)
    _add_problems(app)
    _add_health(app, api)
    records = {name: record_schema(stream) for name, stream in api.streams.items()}
    samples = {name: schema["examples"][0] for name, schema in records.items()}
    _add_own_paths(app, api, samples)
    _add_streams(app, api, samples)
    for of in failed:
        LOG.error("%s takes no records: %s", of.item.name, of.error)
        _add_unreadable(app, of.item)
    description = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    ) | {"components": components(records)}
    found = documents(app.title, msgspec.json.encode(description))
    for path, document in found.items():
        app.add_route(path, document.answer, methods=["GET"], include_in_schema=False)
    return app


@asynccontextmanager
async def _lifespan(api: Api, _: FastAPI) -> AsyncIterator[None]:
    api.open()
    saving = asyncio.create_task(_save_often(api))
    try:
        yield
    finally:
        saving.cancel()
        api.close()


async def _save_often(api: Api) -> None:
    while True:
        await asyncio.sleep(SAVE)
        api.save()  # on the event loop, so that counts do not change meanwhile; takes 1 ms


def _add_health(app: FastAPI, api: Api) -> None:
    async def readyz() -> Response:
        return routes.ready(api)

    async def metrics() -> Response:
        return routes.metrics(api)

    get = partial(app.add_api_route, methods=["GET"], response_class=Response, tags=["health"])
    get("/health", routes.health, summary="Liveness, as JSON")
    get("/healthz", routes.health, summary="Liveness: the process answers")
    unready: dict[int | str, dict[str, Any]] = {
        503: {"description": "Kafka is away, or the API is closing."}
    }
    get("/readyz", readyz, summary="Readiness: a record would be taken", responses=unready)
    get("/metrics", metrics, summary="The API's metrics for Prometheus")


def _add_own_paths(app: FastAPI, api: Api, samples: dict[str, Any]) -> None:
    """Add the paths that streams declare for themselves."""
    for stream in api.streams.values():
        own = stream.http
        if own is None:
            continue
        describe = partial(
            one_operation, stream, samples[stream.name], own, limits=api.settings.http_api
        )
        noun = own.path.rpartition("/")[2].removesuffix("s")
        _post(
            app,
            own.path,
            _bound(routes.post_one, api, stream, own),
            describe(
                f"Send one {noun}",
                f"Answered when it is in the topic `{stream.topic}` on all replicas.",
            ),
        )
        if own.staging_path is not None:
            _post(
                app,
                own.staging_path,
                _bound(routes.post_staged, api, stream, own),
                describe(
                    f"Stage one {noun}",
                    f"Appends to `{own.staging_file}` in the drop zone, whose files are landed.",
                    rejections=(501,),
                ),
            )


def _add_streams(app: FastAPI, api: Api, samples: dict[str, Any]) -> None:
    for stream in api.streams.values():
        path = f"/v1/streams/{stream.name}/records"
        if not stream.kafka:
            _reject(app, path, _bound(routes.reject_records, stream))
            continue
        _post(
            app,
            path,
            _bound(routes.post_records, api, stream),
            records_operation(stream, samples[stream.name], api.settings.http_api),
        )


def _add_unreadable(app: FastAPI, stream: Stream) -> None:
    """Answer 503 on every path of a stream whose contract cannot be read."""
    own = stream.http.all if stream.http else ()
    for path in (f"/v1/streams/{stream.name}/records", *own):
        _reject(app, path, _bound(routes.reject_unreadable, stream))


def _reject(app: FastAPI, path: str, handler: Handler) -> None:
    app.add_api_route(path, handler, methods=["POST"], include_in_schema=False)


def _post(app: FastAPI, path: str, handler: Handler, operation: dict[str, Any]) -> None:
    app.add_api_route(
        path,
        handler,
        methods=["POST"],
        status_code=201,
        response_class=Response,
        openapi_extra=operation,
        tags=[operation["operationId"].split("_")[0]],
    )


def _bound(function: Callable[..., Coroutine[Any, Any, Response]], *given: Any) -> Handler:
    """Return the function as an endpoint whose only parameter is the request."""

    async def handler(request: Request) -> Response:
        return await function(*given, request)

    return handler


def _add_problems(app: FastAPI) -> None:
    async def problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def transient(_: Request, error: Exception) -> Response:
        assert isinstance(error, Transient)
        return unavailable(error).response()

    async def status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.NOT_FOUND:
            missing = f"there is no {visible(request.url.path[:200])}"
            action = "GET /openapi.json lists the paths, with the streams there are"
            return Problem("not-found", missing, action=action).response()
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return _other_method(request, error)
        return status_problem(error.status_code, str(error.detail), error.headers).response()

    async def disconnected(_: Request, error: Exception) -> Response:
        assert isinstance(error, ClientDisconnect)
        return Problem("malformed", "the client left before its body was complete").response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(Transient, transient)
    app.add_exception_handler(HTTPException, status)
    app.add_exception_handler(ClientDisconnect, disconnected)


def _other_method(request: Request, error: HTTPException) -> Response:
    """Answer a method that the path does not have; OPTIONS lists those that it has."""
    methods = {each.strip() for each in (error.headers or {}).get("Allow", "").split(",")}
    allowed = sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))
    headers = {"Allow": ", ".join(allowed)}
    if "POST" in methods:
        headers["Accept-Post"] = ", ".join(RECORDS)
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    said = f"{visible(request.method[:20])} is not one of {headers['Allow']}"
    return Problem("method-not-allowed", said, headers=headers).response()
