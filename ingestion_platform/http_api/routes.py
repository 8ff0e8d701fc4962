"""Handlers of the API's paths: records of every stream, streams' own paths, health, metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingestion_platform.http_api.api import Api, Rejected, Result, answer, answer_one, rejected
from ingestion_platform.http_api.idempotency import Answer, Done
from ingestion_platform.http_api.media import JSON
from ingestion_platform.http_api.problems import Problem, later
from ingestion_platform.http_api.requests import answered, kafka_headers, note, received
from ingestion_platform.http_api.staging import append_rows
from ingestion_platform.streams import HttpPaths, Stream, no_topic


async def post_records(api: Api, stream: Stream, request: Request) -> Response:
    """Records of any stream, in any form; a result for each."""
    envelopes = await received(api, request)

    async def work(done: Done) -> Answer:
        results = await api.take(stream, envelopes, kafka_headers(request), done)
        _note(request, stream, results)
        return answer(stream, results)

    return await answered(api, request, work)


async def reject_records(stream: Stream, _: Request) -> Response:
    """What a stream that takes files only answers to records: where its files go."""
    reason = no_topic(stream)
    return Problem("no-topic", reason.message, action=reason.action).response()


async def reject_unreadable(stream: Stream, _: Request) -> Response:
    """Answer for a stream whose contract cannot be read; the log has the error."""
    said = f"stream {stream.name} takes no records: its contract cannot be read"
    action = "correct the contract (`ingest contract lint`) and restart the HTTP API"
    return Problem("unavailable", said, action=action).response()


async def post_one(api: Api, stream: Stream, own: HttpPaths, request: Request) -> Response:
    """Send one record to the topic; answer with its value of the field to echo."""
    (envelope,) = await received(api, request, single=True)

    async def work(done: Done) -> Answer:
        (result,) = await api.take(stream, [envelope], kafka_headers(request), done)
        _note(request, stream, [result])
        return answer_one(result, _accepted(own, _fields(envelope.value)))

    return await answered(api, request, work)


async def post_staged(api: Api, stream: Stream, own: HttpPaths, request: Request) -> Response:
    """Append one record to a staging file of the drop zone, instead of sending it to the topic."""
    file = f"{stream.file_source.folder.strip('/')}/{own.staging_file}"
    root = _drop_folder(api)
    (envelope,) = await received(api, request, single=True)

    async def work(_: Done) -> Answer:
        value = api.complete(stream, envelope).value
        (validation,) = await api.validate(stream, [value])
        if validation.findings:
            api.counters.add(stream.name, rejected=1)
            return rejected([Rejected(validation.findings)], {})
        row = _fields(value)
        columns = [f.name for f in stream.contract.fields if f.derived is None]
        try:
            await asyncio.to_thread(append_rows, root, file, columns, [row])
        except OSError as error:
            api.counters.add(stream.name, failed=1)
            raise Problem(
                "unavailable",
                f"{file} cannot be written: {error.strerror}",
                action="see to the drop zone (DROP_URL), then send the same again",
                headers=later(10),
            ) from error
        return Answer(201, msgspec.json.encode(_accepted(own, row)), JSON, {}, final=True)

    note(request, stream=stream.name)
    return await answered(api, request, work)


def _fields(value: bytes) -> dict[str, Any]:
    """The fields of a record; none if it is no JSON object."""
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _accepted(own: HttpPaths, fields: dict[str, Any]) -> dict[str, Any]:
    return {"status": "accepted"} | ({own.echo: fields.get(own.echo)} if own.echo else {})


def _drop_folder(api: Api) -> Path:
    """The folder of the drop zones.

    Raises:
        Problem: the drop zone is no folder, so that nothing can be appended there.
    """
    url = urlsplit(api.settings.drop_url)
    if url.scheme != "file":
        raise Problem(
            "not-possible",
            "files of an object store cannot be appended to",
            action="set DROP_URL to a folder, or send the record to the stream itself",
        )
    return Path(unquote(url.path))


def _note(request: Request, stream: Stream, results: list[Result]) -> None:
    counts = Counter(type(result).__name__.lower() for result in results)
    note(request, stream=stream.name, records=len(results), **counts)


async def health(_: Request) -> Response:
    """Answer that the process runs."""
    return JSONResponse({"status": "healthy"})


def ready(api: Api) -> Response:
    """Whether a record would be taken now, and what was counted so far."""
    problem = api.unready()
    body = {
        "status": "not ready" if problem else "ready",
        "problem": problem or None,
        "in_progress": api.in_progress,
        **api.counters.by_outcome(),
    }
    return JSONResponse(body, 503 if problem else 200, later(2) if problem else None)


def metrics(api: Api) -> Response:
    """The API's own metrics, in Prometheus's words."""
    from prometheus_client import CONTENT_TYPE_LATEST

    from ingestion_platform.operations.metrics.exposition import ApiCollector, exposition

    return Response(
        exposition(ApiCollector(api.kept.total)), headers={"content-type": CONTENT_TYPE_LATEST}
    )
