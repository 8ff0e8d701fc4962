"""The application: which path does what. `build` reads like a table of contents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ingestion_platform import __version__
from ingestion_platform.errors import Transient
from ingestion_platform.gateway import routes
from ingestion_platform.gateway.door import Door
from ingestion_platform.gateway.front import Front
from ingestion_platform.gateway.openapi import (
    DESCRIPTION,
    components,
    one_operation,
    record_schema,
    records_operation,
)
from ingestion_platform.gateway.problems import Problem, of_status, unavailable
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream

# The shop's own paths: stream, its path, its internal path, the staging file behind that.
SHOP = (
    ("recomart_users", "/users", "/internal/ingest-user", "users_api_staging.csv"),
    (
        "recomart_transactions",
        "/transactions",
        "/internal/ingest-transaction",
        "transactions_api_staging.csv",
    ),
)

SAVE = 5.0
"""Seconds between two writings of what the door counts."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def build(settings: Settings, streams: Mapping[str, Stream]) -> FastAPI:
    """The door of these streams as an ASGI application, its state in `app.state.door`.

    Its lifespan connects to Kafka, and delivers what is queued at the end.
    """
    door = Door(settings, dict(streams))
    app = FastAPI(
        title="Ingestion platform: the HTTP door",
        version=__version__,
        description=DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=partial(_lifespan, door),
    )
    app.state.door = door
    app.add_middleware(Front, door=door)
    _add_problems(app)
    _add_health(app, door)
    records = {name: record_schema(stream) for name, stream in door.streams.items()}
    samples = {name: schema["examples"][0] for name, schema in records.items()}
    _add_shop(app, door, samples)
    _add_streams(app, door, samples)
    # Made here, not when it is first asked for: that would keep everybody else waiting.
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    ) | {"components": components(records)}
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(door: Door, _: FastAPI) -> AsyncIterator[None]:
    door.open()
    saving = asyncio.create_task(_save_often(door))
    try:
        yield
    finally:
        saving.cancel()
        door.close()


async def _save_often(door: Door) -> None:
    while True:
        await asyncio.sleep(SAVE)
        door.save()  # here, where nobody counts meanwhile; it takes a millisecond


def _add_health(app: FastAPI, door: Door) -> None:
    async def readyz() -> Response:
        return routes.ready(door)

    async def metrics() -> Response:
        return routes.metrics(door)

    get = partial(app.add_api_route, methods=["GET"], response_class=Response, tags=["health"])
    get("/health", routes.health, summary="Liveness, in the shop's words")
    get("/healthz", routes.health, summary="Liveness: the process answers")
    unready: dict[int | str, dict[str, Any]] = {
        503: {"description": "Kafka is away, or the door is closing."}
    }
    get("/readyz", readyz, summary="Readiness: a record would be taken", responses=unready)
    get("/metrics", metrics, summary="The door's metrics for Prometheus")


def _add_shop(app: FastAPI, door: Door, samples: dict[str, Any]) -> None:
    for name, path, internal, file in SHOP:
        if name not in door.streams:
            continue
        stream, noun = door.streams[name], path.strip("/").removesuffix("s")
        _post(
            app,
            path,
            _bound(routes.post_one, door, stream),
            one_operation(
                stream,
                samples[name],
                f"Send one {noun}",
                f"Answered when it is in the topic `{stream.topic}` on all replicas.",
                door.settings.gateway,
            ),
        )
        _post(
            app,
            internal,
            _bound(routes.post_staged, door, stream, file),
            one_operation(
                stream,
                samples[name],
                f"Stage one {noun}",
                f"Appends to `{file}` in the drop zone, which the batch path lands.",
                door.settings.gateway,
                501,
            ),
        )


def _add_streams(app: FastAPI, door: Door, samples: dict[str, Any]) -> None:
    for stream in door.streams.values():
        path = f"/v1/streams/{stream.name}/records"
        if not stream.kafka:
            refuse = _bound(routes.refuse_records, stream)
            app.add_api_route(path, refuse, methods=["POST"], include_in_schema=False)
            continue
        _post(
            app,
            path,
            _bound(routes.post_records, door, stream),
            records_operation(stream, samples[stream.name], door.settings.gateway),
        )


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
    """The function as an endpoint whose only parameter is the request."""

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
            missing = f"there is no {request.url.path[:200]}"
            action = "GET /openapi.json lists the paths, with the streams there are"
            return Problem("not-found", missing, action=action).response()
        return of_status(error.status_code, str(error.detail), error.headers).response()

    async def left(_: Request, error: Exception) -> Response:
        assert isinstance(error, ClientDisconnect)
        return Problem("malformed", "the client left before its body was complete").response()

    async def unexpected(_: Request, error: Exception) -> Response:
        # Its words may hold anything: they go to the log only.
        return Problem("unexpected", f"{type(error).__name__}; see the door's log").response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(Transient, transient)
    app.add_exception_handler(HTTPException, status)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, unexpected)
