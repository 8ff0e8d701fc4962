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
from ingestion_platform.http_api.problems import Problem, retry_after
from ingestion_platform.http_api.requests import kafka_headers, log_fields, read_envelopes, respond
from ingestion_platform.http_api.staging import append_rows
from ingestion_platform.streams import HttpPaths, Stream, no_topic


async def post_records(api: Api, stream: Stream, request: Request) -> Response:
    """Send the records of a request to the topic; answer with a result for each."""
    envelopes = await read_envelopes(api, request)

    async def work(done: Done) -> Answer:
        results = await api.take(stream, envelopes, kafka_headers(request), done)
        _log_results(request, stream, results)
        return answer(stream, results)

    return await respond(api, request, work)


async def reject_records(stream: Stream, _: Request) -> Response:
    """Answer for a stream that takes files only, with the place of its files."""
    reason = no_topic(stream)
    return Problem("no-topic", reason.message, action=reason.action).response()


async def reject_unreadable(stream: Stream, _: Request) -> Response:
    """Answer for a stream whose contract cannot be read; the log has the error."""
    said = f"stream {stream.name} takes no records: its contract cannot be read"
    action = "correct the contract (`ingest contract lint`) and restart the HTTP API"
    return Problem("unavailable", said, action=action).response()


async def post_one(api: Api, stream: Stream, own: HttpPaths, request: Request) -> Response:
    """Send one record to the topic; answer with its value of the field to echo."""
    (envelope,) = await read_envelopes(api, request, single=True)

    async def work(done: Done) -> Answer:
        (result,) = await api.take(stream, [envelope], kafka_headers(request), done)
        _log_results(request, stream, [result])
        return answer_one(result, _accepted(own, _fields(envelope.value)))

    return await respond(api, request, work)


async def post_staged(api: Api, stream: Stream, own: HttpPaths, request: Request) -> Response:
    """Append one record to a staging file of the drop zone, instead of sending it to the topic."""
    file = f"{stream.file_source.folder.strip('/')}/{own.staging_file}"
    root = _drop_folder(api)
    (envelope,) = await read_envelopes(api, request, single=True)

    async def work(_: Done) -> Answer:
        value = api.complete(stream, envelope).value
        (validation,) = await api.validate(stream, [value])
        if validation.reasons:
            api.counters.add(stream.name, rejected=1)
            return rejected([Rejected(validation.reasons)], {})
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
                headers=retry_after(10),
            ) from error
        return Answer(201, msgspec.json.encode(_accepted(own, row)), JSON, {}, final=True)

    log_fields(request, stream=stream.name)
    return await respond(api, request, work)


def _fields(value: bytes) -> dict[str, Any]:
    """Return the fields of a record; none if it is no JSON object."""
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _accepted(own: HttpPaths, fields: dict[str, Any]) -> dict[str, Any]:
    return {"status": "accepted"} | ({own.echo: fields.get(own.echo)} if own.echo else {})


def _drop_folder(api: Api) -> Path:
    """Return the folder of the drop zone.

    Raises:
        Problem: the drop zone is an object store, whose files cannot be appended to.
    """
    url = urlsplit(api.settings.drop_url)
    if url.scheme != "file":
        raise Problem(
            "not-possible",
            "files of an object store cannot be appended to",
            action="set DROP_URL to a folder, or send the record to the stream itself",
        )
    return Path(unquote(url.path))


def _log_results(request: Request, stream: Stream, results: list[Result]) -> None:
    counts = Counter(type(result).__name__.lower() for result in results)
    log_fields(request, stream=stream.name, records=len(results), **counts)


async def health(_: Request) -> Response:
    """Answer that the process runs."""
    return JSONResponse({"status": "healthy"})


def ready(api: Api) -> Response:
    """Return whether a record can be taken now, and the counts."""
    problem = api.unready()
    body = {
        "status": "not ready" if problem else "ready",
        "problem": problem or None,
        "in_progress": api.in_progress,
        **api.counters.by_outcome(),
    }
    return JSONResponse(body, 503 if problem else 200, retry_after(2) if problem else None)


def metrics(api: Api) -> Response:
    """Return the API's metrics in Prometheus's text format."""
    from prometheus_client import CONTENT_TYPE_LATEST

    from ingestion_platform.operations.metrics.exposition import ApiCollector, exposition

    return Response(
        exposition(ApiCollector(api.counts_file.total)),
        headers={"content-type": CONTENT_TYPE_LATEST},
    )
