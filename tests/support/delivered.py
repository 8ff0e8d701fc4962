"""Targets of deliveries for tests: how to reach, read and stop them, and what they must hold.

Both are read without the code that delivers. A new sink joins the behaviour suite by a class here
and a line in HARNESSES.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.request import Request, urlopen

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pyiceberg.catalog import load_catalog

from ingestion_platform.lake.segments import Segment
from ingestion_platform.lake.store import store_at
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.streams import Stream
from services import Services
from tests.support.lake_files import put, segment_of

CONTRACT: dict[str, Any] = {
    "apiVersion": "v3.2.0",
    "kind": "DataContract",
    "id": "items",
    "version": "1.0.0",
    "status": "active",
    "domain": "test",
    "schema": [
        {
            "name": "items",
            "description": "Items to deliver.",
            "properties": [
                {
                    "name": "id",
                    "logicalType": "integer",
                    "primaryKey": True,
                    "primaryKeyPosition": 1,
                    "required": True,
                },
                {
                    "name": "kind",
                    "logicalType": "string",
                    "primaryKey": True,
                    "primaryKeyPosition": 2,
                    "required": True,
                },
                {"name": "n", "logicalType": "integer", "physicalType": "int", "required": True},
                {"name": "note", "logicalType": "string", "description": "Free text."},
                {"name": "amount", "logicalType": "number", "physicalType": "decimal(12,2)"},
                {"name": "ratio", "logicalType": "number", "physicalType": "double"},
                {"name": "at", "logicalType": "timestamp", "physicalType": "timestamptz"},
                {"name": "day", "logicalType": "date"},
                {"name": "open", "logicalType": "boolean"},
                {
                    "name": "tags",
                    "logicalType": "array",
                    "items": {"name": "tag", "logicalType": "string"},
                },
                {"name": "extra", "logicalType": "object", "physicalType": "json"},
                {
                    "name": "size",
                    "logicalType": "object",
                    "properties": [
                        {"name": "width", "logicalType": "integer"},
                        {"name": "unit", "logicalType": "string"},
                    ],
                },
            ],
        }
    ],
}
KEY = ("id", "kind")


def item(number: int, n: int, **more: Any) -> bytes:
    """Return a record; all members follow from number and n, except those that are given."""
    record = {
        "id": number,
        "kind": "ab"[number % 2],
        "n": n,
        "note": [None, "", 'said "so",\n\\.\nand \\ more\t', "ünï"][number % 4],
        "amount": None if number % 5 == 0 else round(number * 1.25 + n, 2),
        "ratio": number / 7,
        "at": f"2026-11-18T12:00:{n % 60:02d}.000{number % 10}Z",
        "day": f"2026-11-{1 + number % 28:02d}",
        "open": [True, False, None][number % 3],
        "tags": [None, [], ["a", 'b"c', "NULL"]][number % 3],
        "extra": None if number % 4 == 0 else {"n": n, "text": 'a"b\\'},
        "size": None if number % 6 == 0 else {"width": number, "unit": "mm"},
    }
    return json.dumps(record | more).encode()


UNUSUAL_JSON = {
    "a key twice": b'{"a":1,"a":2}',
    "beyond a double": b'{"b":1e999}',
    "beyond any number type": b'{"c":1e999999}',
    "four hundred digits": b'{"d":' + b"9" * 400 + b"}",
    "NUL": b'{"e":"\\u0000"}',
    "escapes": b'{"f":"\\ud83d\\ude00\\/\\u00e9"}',
}
"""Valid texts of a JSON column that a target may not be able to store."""


def with_json(number: int, extra: bytes) -> bytes:
    """Return a record with a text in its JSON column."""
    return item(number, number, extra="@").replace(b'"@"', extra)


class Log:
    """The lake of a topic: records are appended without Kafka, and loaded into bronze."""

    def __init__(self, platform: Platform, stream: Stream) -> None:
        self.platform = platform
        self.stream = stream
        self.topic_id = "A"
        self.topic_ids = ["A"]
        self._tails: dict[int, Segment] = {}

    def append(self, values: Iterable[bytes], partition: int = 0) -> None:
        """Write a lake file with some records."""
        values, tail = list(values), self._tails.get(partition)
        start = tail.end if tail is not None and tail.topic_id == self.topic_id else 0
        segment = segment_of(
            self.stream.topic,
            start,
            start + len(values),
            partition=partition,
            topic_id=self.topic_id,
            ordinal=len(self.topic_ids) - 1,
            previous=None if tail is None else (tail.topic_id, tail.end),
        )
        self._tails[partition] = put(self.platform.store, segment, values)

    def recreate(self) -> None:
        """Start a new topic of the same name: offsets begin at 0."""
        self.topic_id = f"{self.topic_id}{uuid.uuid4().hex[:4]}"
        self.topic_ids.append(self.topic_id)

    def load(self, stream: Stream | None = None, *, again: bool = False) -> None:
        """Load the lake into bronze by the contract of `stream`; old slices too if `again`."""
        self.stream = stream or self.stream
        ingest_dates = (
            {segment.name.ingest_date for segment in self._tails.values()} if again else set()
        )
        load_stream(self.platform, self.stream, partitions=self._tails, ingest_dates=ingest_dates)


def expected(settings: Settings, log: Log, *, without: Callable[[Any], bool] | None = None) -> Any:
    """Return the rows that a target must hold: the newest of each key in bronze.

    Rows for which `without` is true do not count: the target rejects them.
    """
    # PyIceberg reads renamed and widened columns.
    table = load_catalog("lakehouse", **settings.catalog).load_table(log.stream.bronze_table)
    rows = table.scan().to_arrow().to_pylist()
    order = {name: number for number, name in enumerate(log.topic_ids)}
    rows.sort(
        key=lambda r: (r["_ingest_date"], r["_partition"], order[r["_topic_id"]], r["_offset"])
    )
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if without is None or not without(row):
            found[tuple(row[name] for name in KEY)] = plain(row)
    return found


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row without columns of the platform, and with JSON text parsed."""
    found = {name: value for name, value in row.items() if not name.startswith("_")}
    if isinstance(found.get("extra"), str):
        found["extra"] = json.loads(found["extra"])
    return found


class Harness(Protocol):
    """A sink under test."""

    sink: str
    rejects: dict[str, Any]
    """A member of `item` that it rejects, with its name; none if it accepts every row."""

    code: str
    """The code of that rejection."""

    def environment(self) -> dict[str, str]:
        """Return the variables of its settings."""

    def options(self) -> dict[str, Any]:
        """Return options of a delivery with a new target."""

    def content(self, settings: Settings, delivery: Delivery) -> dict[tuple[Any, ...], Any]:
        """Return the rows by key, like `expected`, read without the sink."""

    def stop(self) -> None:
        """Kill the server."""

    def start(self) -> None:
        """Start it again."""


class PostgresHarness:
    """A database of the shared server, or of one of the test's own."""

    sink = "postgres"
    rejects: ClassVar[dict[str, Any]] = {"note": "a\u0000b"}
    code = "untranslatable_character"

    def __init__(self, services: Services, _folder: Path) -> None:
        self._services = services

    def environment(self) -> dict[str, str]:
        uri = self._services.env()["PYICEBERG_CATALOG__LAKEHOUSE__URI"]
        return {"SINK_POSTGRES_URL": uri.replace("+psycopg", "")}

    def options(self) -> dict[str, Any]:
        return {"table": f"s{uuid.uuid4().hex[:10]}.Items"}

    def content(self, settings: Settings, delivery: Delivery) -> dict[tuple[Any, ...], Any]:
        where = f'"{delivery.options.schema}"."{delivery.options.table}"'
        with closing(psycopg.connect(self.environment()["SINK_POSTGRES_URL"])) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            cursor = connection.execute(f"SELECT * FROM {where}")
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return {tuple(row[name] for name in KEY): plain(row) for row in rows}

    def stop(self) -> None:
        self._services.kill("postgres")

    def start(self) -> None:
        self._services.start("postgres")


class ElasticsearchHarness:
    """An index of the shared server, or of one of the test's own."""

    sink = "elasticsearch"
    rejects: ClassVar[dict[str, Any]] = {"extra": [1, 2]}
    code = "document_parsing_exception"

    def __init__(self, services: Services, _folder: Path) -> None:
        self._services = services

    def environment(self) -> dict[str, str]:
        self._services.start("elasticsearch")  # most tests do not need it
        return {"ELASTICSEARCH_URL": self._services.env()["ELASTICSEARCH_URL"]}

    def options(self) -> dict[str, Any]:
        return {"index": f"i{uuid.uuid4().hex[:10]}-items"}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of the server to a plain HTTP request."""
        request = Request(
            f"{self._services.env()['ELASTICSEARCH_URL']}{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read(), parse_float=Decimal)

    def content(self, settings: Settings, delivery: Delivery) -> dict[tuple[Any, ...], Any]:
        index = delivery.options.index
        self.ask("POST", f"/{index}/_refresh")
        found: dict[tuple[Any, ...], Any] = {}
        mappings = self.ask("GET", f"/{index}/_mapping")
        (names,) = [each["mappings"]["properties"] for each in mappings.values()]
        total = self.ask("GET", f"/{index}/_count")["count"]
        body: dict[str, Any] = {"size": 10_000, "sort": ["id", "kind"]}
        while len(found) < total:
            hits = self.ask("POST", f"/{index}/_search", body)["hits"]["hits"]
            for hit in hits:
                row = undocumented(dict.fromkeys(names) | hit["_source"])
                found[tuple(row[name] for name in KEY)] = row
            body["search_after"] = hits[-1]["sort"]
        return found

    def stop(self) -> None:
        self._services.kill("elasticsearch")

    def start(self) -> None:
        self._services.start("elasticsearch")


class FilesHarness:
    """A local folder of Parquet parts."""

    sink, format = "files", "parquet"
    rejects: ClassVar[dict[str, Any]] = {}
    code = ""

    def __init__(self, _services: Services, folder: Path) -> None:
        self._root = folder / "exports"

    def environment(self) -> dict[str, str]:
        return {"SINK_FILES_URL": self._root.as_uri()}

    def options(self) -> dict[str, Any]:
        folder = f"shop/i{uuid.uuid4().hex[:10]}"
        return {"folder": folder, "format": self.format, "parts": 3}

    def content(self, settings: Settings, delivery: Delivery) -> dict[tuple[Any, ...], Any]:
        folder = self._root / delivery.options.folder
        newest = max((folder / "_manifests").iterdir())
        paths = [self._root / path for path, _ in json.loads(newest.read_text())["files"].values()]
        # There are no other parts, so that a plain glob reads the same.
        assert sorted(folder.glob("part-*")) == sorted(paths)
        rows = [row for path in paths for row in self.read(path)]
        found = {tuple(row[name] for name in KEY): unflattened(row) for row in rows}
        assert len(found) == len(rows)
        return found

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return the rows of a part."""
        return pq.read_table(path).to_pylist()

    def stop(self) -> None:
        self._root.rename(self._root.with_name("away"))
        self._root.write_text("no folder")

    def start(self) -> None:
        self._root.unlink()
        self._root.with_name("away").rename(self._root)


class CsvHarness(FilesHarness):
    """A local folder of CSV parts; text is in quotes, null is an empty field."""

    format = "csv"

    def read(self, path: Path) -> list[dict[str, Any]]:
        types = {
            "id": pa.int64(),
            "kind": pa.string(),
            "n": pa.int64(),
            "note": pa.string(),
            "remark": pa.string(),
            "colour": pa.string(),
            "old_n": pa.int64(),
            "ratio": pa.float64(),
            "at": pa.timestamp("us", "UTC"),
            "day": pa.date32(),
            "open": pa.bool_(),
            "tags": pa.string(),
            "extra": pa.string(),
            "size": pa.string(),
            "amount": pa.decimal128(18, 2),
        }
        convert = csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        parse = csv.ParseOptions(newlines_in_values=True)
        return csv.read_csv(path, parse_options=parse, convert_options=convert).to_pylist()


class BucketHarness(FilesHarness):
    """A prefix of a bucket of MinIO."""

    def __init__(self, services: Services, folder: Path) -> None:
        super().__init__(services, folder)
        self._services = services
        self._prefix = f"exports-{uuid.uuid4().hex[:8]}"

    def environment(self) -> dict[str, str]:
        env = self._services.env()
        s3 = {name: value for name, value in env.items() if name.startswith("AWS_")}
        return {**s3, "SINK_FILES_URL": f"s3://bucket-0/{self._prefix}"}

    def content(self, settings: Settings, delivery: Delivery) -> dict[tuple[Any, ...], Any]:
        store = store_at(settings.sinks.files_url, settings.s3)
        for entry in list(store.files(delivery.options.folder)):
            target = self._root / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(entry.path))
        try:
            return super().content(settings, delivery)
        finally:
            shutil.rmtree(self._root)

    def stop(self) -> None:
        self._services.kill("minio")

    def start(self) -> None:
        self._services.start("minio")


def unflattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with the JSON text of nested values parsed."""
    found = plain(row)
    for name in ("tags", "size"):
        if isinstance(found.get(name), str):
            found[name] = json.loads(found[name])
    return found


def undocumented(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a document; numbers with a fraction were read as Decimal."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "ratio": float,
        "at": datetime.fromisoformat,
        "day": date.fromisoformat,
    }
    row = plain(source)
    return {name: None if v is None else kinds.get(name, _same)(v) for name, v in row.items()}


def _same(value: Any) -> Any:
    return value


HARNESSES: dict[str, Callable[[Services, Path], Harness]] = {
    "files": FilesHarness,
    "files_csv": CsvHarness,
    "elasticsearch": ElasticsearchHarness,
    "files_minio": BucketHarness,
    "postgres": PostgresHarness,
}
SERVERS = {
    "elasticsearch": ("elasticsearch",),
    "files": (),
    "files_csv": (),
    "files_minio": ("minio",),
    "postgres": ("postgres",),
}
"""The servers that a harness needs, for tests that start their own."""
