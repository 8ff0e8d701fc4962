"""Runs pieces of the pipeline in processes made to be killed: `python -m tests.support.forking`.

It imports once and forks per request, so that a killed process costs milliseconds, not seconds.
Requests come as lines of JSON on stdin; each is answered by the new process's id.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

# Everything that a run imports late, ahead of the forks.
import duckdb  # noqa: F401
import obstore.store  # noqa: F401
import open_data_contract_standard.model  # noqa: F401
import psycopg  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pyiceberg.avro.decoder_fast
import pyiceberg.catalog.sql
import pyiceberg.io.pyarrow  # noqa: F401
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401
from confluent_kafka import admin  # noqa: F401

import ingestion_platform.sinks.postgres.target  # noqa: F401
from ingestion_platform import pipeline
from ingestion_platform.bronze import load as load_module
from ingestion_platform.contract import odcs  # noqa: F401
from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.lake import land as land_module
from ingestion_platform.lake import merge as merge_module
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.maintenance import maintain_stream, tables_of
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import deliver as deliver_module
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.streams import Destination, Stream
from ingestion_platform.warehouse import totals  # noqa: F401
from ingestion_platform.warehouse.maintenance import compact as compact_module
from ingestion_platform.warehouse.maintenance import orphans as orphans_module
from ingestion_platform.warehouse.maintenance import rewrite as rewrite_module
from ingestion_platform.warehouse.maintenance import table as table_module  # noqa: F401
from ingestion_platform.worker import processes as streaming

PROJECT = Path(__file__).parents[2] / "dbt_project"


def main() -> None:
    """Fork a process per line of stdin until it closes."""
    # The threads there are (DuckDB's, jemalloc's) sleep, and hold nothing that a fork would miss.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "store":
            models()  # ahead of the fork: reading the project takes seconds
        if (pid := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(serve(request))
        answer({"pid": pid})


def answer(what: dict[str, Any]) -> None:
    """A line of JSON for whoever asked."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def serve(request: dict[str, Any]) -> int:
    """Do one request; its progress, and how it ended, go to its log file."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)

    def note(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    try:
        mark_phases(note)
        set_clock(request["clock_days"])
        perform(request)
    except Transient as error:
        note(f"transient {type(error).__name__}: {error}")
        return 3
    except Permanent as error:
        note(f"permanent {type(error).__name__}: {error}")
        return 2
    except BaseException:
        note(f"failed {traceback.format_exc()}")
        return 1
    note("ok")
    return 0


def perform(request: dict[str, Any]) -> None:
    """Do what WORK says."""
    settings = Settings.load(request["env"], root=Path(request["root"]))
    given = request["stream"]
    given["contract_file"] = Path(given["contract_file"])
    given["deliver"] = tuple(Destination(**each) for each in given["deliver"])
    stream = Stream(**given)
    if request["do"] == "store":
        store(request["env"], Path(request["root"]), request["ingest_dates"])
    else:
        WORK[request["do"]](Platform(settings), stream)


def load(platform: Platform, stream: Stream, ingest_dates: Iterable[date] = ()) -> None:
    """Load what is landed, and some ingest dates again where another contract validated them."""
    everything = range(stream.partitions)
    pipeline.load_stream(platform, stream, partitions=everything, ingest_dates=ingest_dates)


def serve_stream(platform: Platform, stream: Stream) -> None:
    """Be the worker, until a signal comes."""
    streaming.run(platform.settings, [stream], observe=lambda _: nullcontext(()))


def remove_orphans(platform: Platform, stream: Stream) -> None:
    """Of both tables, however new."""
    for table in tables_of(stream):
        orphans_module.remove_orphans(platform.catalog, table, wait=timedelta(0))


def merge(platform: Platform, stream: Stream) -> None:
    """Merge the lake's closed ingest dates into small files."""
    today = datetime.now(UTC).date()
    merge_module.merge_closed(platform.store, stream.topic, today=today, target_rows=150)


def deliver(platform: Platform, stream: Stream) -> None:
    """Deliver bronze, in many changes of few rows."""
    for name, size in (("LEAST", 10), ("MOST", 100), ("KEYS", 50)):
        setattr(deliver_module, name, size)
    for delivery in stream_deliveries(stream):
        deliver_module.deliver(platform, delivery)


WORK: dict[str, Callable[[Platform, Stream], object]] = {
    "run": pipeline.run_stream,
    "stream": serve_stream,
    "land": pipeline.land_stream,
    "load": load,
    "replace": lambda platform, stream: load(
        platform, stream, SegmentLog(platform.store, stream.topic).ingest_dates()
    ),
    "deliver": deliver,
    "maintenance": lambda platform, stream: maintain_stream(platform, stream, thorough=False),
    "orphans": remove_orphans,
    "merge": merge,
}
"""What a process does, by its name; and there is `store`."""


@cache
def models() -> Any:
    """The dbt project, read once; what its runs import comes with it."""
    from ingestion_platform.warehouse import dbt_plugin, replace

    with tempfile.TemporaryDirectory() as folder:
        parsed = dbt(folder, "parse")
    assert parsed.success, parsed.exception
    return parsed.result, dbt_plugin, replace


def dbt(folder: str | Path, *arguments: str, manifest: Any = None) -> Any:
    """Run a dbt command in this process; what it writes goes below the folder."""
    from dbt.cli.main import dbtRunner

    flags = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--no-write-json"]
    flags += ["--target-path", f"{folder}/target", "--log-path", f"{folder}/logs"]
    flags += ["--log-level", "none", "--no-use-colors"]
    return dbtRunner(manifest=manifest).invoke([*arguments, *flags])


def store(env: dict[str, str], root: Path, ingest_dates: list[str] | None) -> None:
    """Run the models of pgr for ingest dates [start, end), or all of them again."""
    os.environ.update(env)  # where dbt's own process would find them
    arguments = ["run", "--select", "path:models/pgr"]
    if ingest_dates is not None:
        named = dict(zip(("ingest_date_start", "ingest_date_end"), ingest_dates, strict=True))
        arguments += ["--vars", json.dumps(named)]
    done = dbt(root, *arguments, manifest=models()[0])
    said = [str(result.message) for result in done.result or []]
    if any("another writer" in text for text in said):
        raise Transient("; ".join(said))
    assert done.success, said or done.exception


def set_clock(days: float) -> None:
    """Have landing, which alone asks what day it is, see another time."""
    if not days:
        return

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=days)

    land_module.datetime = Wrong


def mark_phases(note: Callable[[str], None]) -> None:
    """Have the steps of a run noted as they begin (`+`) and end (`-`)."""
    ids = iter(range(10**9))
    lock = threading.Lock()

    def marked(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                number = next(ids)
            note(f"+ {number} {name(*args)}")
            result = function(*args, **kwargs)
            note(f"- {number}")
            return result

        return call

    writer = land_module.Writer
    writer._store_file = marked(writer._store_file, lambda *_: "landing a file")
    builder = load_module.RowBuilder
    builder.rows = marked(builder.rows, lambda *_: "validating")
    merge_module._create = marked(merge_module._create, lambda *_: "merging files")
    merge_module._remove = marked(merge_module._remove, lambda *_: "removing a merged file")
    load_module.write_data_files = marked(
        load_module.write_data_files, lambda *_: "writing data files"
    )
    load_module.commit = marked(
        load_module.commit, lambda _, table, __: f"committing {table.partition('.')[0]}"
    )
    compact_module.compact = marked(compact_module.compact, lambda *_: "writing a compacted file")
    for name, what in (
        ("replace_files", "committing a compaction"),
        ("merge_manifests", "committing merged manifests"),
        ("expire", "committing an expiry"),
    ):
        setattr(rewrite_module, name, marked(getattr(rewrite_module, name), lambda *_, w=what: w))
    deliver_module._Run.change = marked(
        deliver_module._Run.change, lambda *_: "delivering a change"
    )
    if models.cache_info().currsize:
        _, dbt_plugin, replace = models()
        dbt_plugin._Model.run = marked(dbt_plugin._Model.run, lambda *_: "storing a model")
        for name, what in (
            ("write", "writing the rows of a model"),
            ("commit", "committing a model"),
        ):
            function = getattr(replace.Replacement, name)
            setattr(replace.Replacement, name, marked(function, lambda *_, w=what: w))
    place = orphans_module._Place
    place.remove = marked(place.remove, lambda *_: "removing orphans")
    place.write_seen = marked(place.write_seen, lambda *_: "writing what is unneeded")


if __name__ == "__main__":
    main()
