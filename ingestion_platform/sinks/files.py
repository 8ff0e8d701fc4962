"""Files: a folder of Parquet or CSV parts on a disk or an object store, for whoever reads files.

A part holds the keys of one hash. A change writes the parts that it touches under new names, and
then a manifest that names all parts, the position and the rejected rows; the number of a manifest
can be taken once, so of two deliveries at once one begins again. For exports of some million rows:
a change costs as much as the parts that it touches.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.lake.store import Store, store_at
from ingestion_platform.sinks.interface import (
    DELIVERY,
    ORDER,
    ORIGIN,
    Applied,
    Change,
    Part,
    Rejected,
    Shape,
    origin_fields,
)
from ingestion_platform.sinks.text import csv_bytes, flat, flat_type, json_row

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings

FORMATS = ("parquet", "csv")
PARTS = 16
_FOLDER = re.compile(r"[\w.-]+(/[\w.-]+)*")
_NUMBERED = re.compile(r"(?:^|/)part-\d{4}-(\d{10})-[^/]*$")
_WIDER = {("int32", "int64"), ("float", "double")}


@dataclass(frozen=True)
class Options:
    """Where below SINK_FILES_URL, and how."""

    folder: str
    format: str = "parquet"
    parts: int = PARTS


def options(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    """The options of a delivery: `folder`, `format` (parquet, csv), `parts`.

    Raises:
        ValueError: says which option is wrong, and how.
    """
    if unknown := sorted(set(given) - {"folder", "format", "parts"}):
        raise ValueError(f"{unknown[0]}: is not an option; use folder, format or parts")
    folder = given.get("folder", f"{default_schema}/{default_table}")
    if not (isinstance(folder, str) and _FOLDER.fullmatch(folder)) or ".." in folder:
        raise ValueError(f"folder: {folder!r} cannot be a folder; write `folder: shop/users`")
    kind, parts = given.get("format", "parquet"), given.get("parts", PARTS)
    if kind not in FORMATS:
        raise ValueError(f"format: is none of {', '.join(FORMATS)}")
    if not (isinstance(parts, int) and 1 <= parts <= 9999):
        raise ValueError("parts: is no number from 1 to 9999")
    return Options(folder, kind, parts)


def label(where: Options) -> str:
    """What the delivery is called, behind the name of the sink."""
    return where.folder


def configured(settings: Settings) -> bool:
    """Always: without SINK_FILES_URL they lie in the platform's own folder."""
    return bool(settings.sinks.files_url)


def open_target(settings: Settings, where: Options) -> FilesTarget:
    """The folder."""
    return FilesTarget(
        store_at(settings.sinks.files_url, settings.s3, setting="SINK_FILES_URL"), where
    )


@dataclass(frozen=True)
class Manifest:
    """What the folder holds: the newest manifest counts; number 0 is none yet.

    `files` has the path and the number of rows of each part, by its number as text.
    """

    number: int = 0
    position: str = ""
    identity: str = ""
    key: tuple[str, ...] = ()
    columns: tuple[tuple[int, str, str], ...] = ()
    parts: int = PARTS
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    rejected: str | None = None


class FilesTarget:
    """See Target."""

    atomic = True

    def __init__(self, store: Store, where: Options) -> None:
        self._store = store
        self._where = where
        self._shape: Shape | None = None

    def __enter__(self) -> FilesTarget:
        """See Target."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See Target."""

    def ensure(self, shape: Shape) -> None:
        """See Target: all parts are written again when the shape has changed."""
        self._shape = shape
        now = self._manifest()
        columns = tuple((o.number, o.name, str(flat_type(o.type))) for o in shape.columns)
        if (now.identity, now.key, now.columns) == (shape.identity, shape.key, columns):
            return
        names = self._renamed(now, shape) if now.number else {}
        files: dict[str, tuple[str, int]] = {}
        for bucket, (path, count) in now.files.items():
            rows = self._conformed(self._read(path, now.columns), names, shape)
            files[bucket] = (self._write(now.number + 1, int(bucket), "shape", rows), count)
        after = {
            **vars(now),
            "number": now.number + 1,
            "identity": shape.identity,
            "key": shape.key,
            "columns": columns,
            "files": files,
            "parts": now.parts if now.number else self._where.parts,
        }
        self._commit(now, Manifest(**after))

    def position(self) -> str:
        """See Target."""
        return self._manifest().position

    def apply(self, change: Change) -> Applied:
        """See Target."""
        now = self._manifest()
        if now.position != change.base:
            raise self._moved()
        upserts = flat(change.upserts)
        touched = _by_bucket(upserts, self._opened.key, now.parts)
        dropped = _by_bucket(change.deletes, self._opened.key, now.parts)
        files, upserted, deleted = dict(now.files), 0, 0
        for bucket in sorted({*touched, *dropped}):
            old = self._read_part(now, bucket)
            new = touched.get(bucket, upserts.slice(0, 0))
            gone = dropped.get(bucket, change.deletes.slice(0, 0))
            rows, put, removed = self._merged(old, new, gone, forced=change.forced)
            upserted, deleted = upserted + put, deleted + removed
            if put or removed:
                path = self._write(now.number + 1, bucket, change.delivery, rows)
                files[str(bucket)] = (path, rows.num_rows)
        rejected = self._kept(now, change)
        if files == now.files and (change.position, rejected) == (now.position, now.rejected):
            return Applied()
        after = {**vars(now), "number": now.number + 1, "position": change.position}
        self._commit(now, Manifest(**{**after, "files": files, "rejected": rejected}))
        return Applied(upserted, deleted)

    def held(self, part: Part | None = None, *, without: str = "") -> Iterator[pa.Table]:
        """See Target."""
        now, shape = self._manifest(), self._opened
        names = list(dict.fromkeys((*shape.key, *ORIGIN)))
        for bucket in sorted(map(int, now.files)):
            rows = self._read_part(now, bucket).select(names)
            if part is not None and part.span is not None:
                span = part.span
                inside = pc.and_(
                    pc.equal(rows[c.PARTITION], part.partition),
                    pc.equal(rows[c.TOPIC_ID], span.topic_id),
                )
                inside = pc.and_(inside, pc.greater_equal(rows[c.OFFSET], span.start))
                rows = rows.filter(pc.and_(inside, pc.less(rows[c.OFFSET], span.end)))
            if without:
                rows = rows.filter(pc.not_equal(rows[DELIVERY], without))
            if rows.num_rows:
                yield rows

    def rows(self) -> int:
        """See Target."""
        return sum(count for _, count in self._manifest().files.values())

    def rejections(self, limit: int) -> list[Rejected]:
        """See Target."""
        entries = self._rejected_of(self._manifest())
        entries.sort(key=lambda entry: str(entry["rejected_at"]), reverse=True)
        return [
            Rejected(**{name: value for name, value in entry.items() if name != "delivery"})
            for entry in entries[:limit]
        ]

    # Manifests.

    def _manifest(self) -> Manifest:
        """The newest one."""
        entries, _ = self._store.listing(f"{self._where.folder}/_manifests/")
        if not entries:
            return Manifest()
        with self._reading():
            found = json.loads(self._store.read(max(entry.path for entry in entries)))
        found["key"] = tuple(found["key"])
        found["columns"] = tuple(tuple(each) for each in found["columns"])
        found["files"] = {name: tuple(each) for name, each in found["files"].items()}
        return Manifest(**found)

    def _commit(self, before: Manifest, after: Manifest) -> None:
        """Make a manifest the newest one, then remove what it no longer names."""
        data = json.dumps(vars(after), indent=1).encode()
        if not self._store.create(self._manifest_path(after.number), data):
            raise self._moved()
        # Of others' files only those that can never be named: their number is taken.
        named = {path for path, _ in after.files.values()}
        for entry in self._store.listing(f"{self._where.folder}/")[0]:
            found = _NUMBERED.search(entry.path)
            if found and entry.path not in named and int(found[1]) <= after.number:
                self._store.remove(entry.path)
        if before.rejected and before.rejected != after.rejected:
            self._store.remove(before.rejected)
        for entry in self._store.listing(f"{self._where.folder}/_manifests/")[0]:
            if entry.path < self._manifest_path(before.number):
                self._store.remove(entry.path)

    def _manifest_path(self, number: int) -> str:
        return f"{self._where.folder}/_manifests/{number:010d}.json"

    # Parts.

    def _read_part(self, now: Manifest, bucket: int) -> pa.Table:
        found = now.files.get(str(bucket))
        return self._schema().empty_table() if not found else self._read(found[0], now.columns)

    def _read(self, path: str, columns: tuple[tuple[int, str, str], ...]) -> pa.Table:
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq

        with self._reading():
            data = pa.BufferReader(self._store.read(path))
        if path.endswith(".parquet"):
            return pq.read_table(data)
        types = {name: _type(kind) for _, name, kind in columns}
        types |= {f.name: f.type for f in origin_fields()}
        return pa_csv.read_csv(
            data,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )

    def _write(self, number: int, bucket: int, delivery: str, rows: pa.Table) -> str:
        import pyarrow.parquet as pq

        kind = self._where.format
        path = f"{self._where.folder}/part-{bucket:04d}-{number:010d}-{delivery}.{kind}"
        if kind == "csv":
            data = csv_bytes(rows, header=True)
        else:
            sink = io.BytesIO()
            pq.write_table(rows, sink, compression="zstd")
            data = sink.getvalue()
        self._store.write(path, data)
        return path

    def _merged(
        self, old: pa.Table, new: pa.Table, gone: pa.Table, *, forced: bool
    ) -> tuple[pa.Table, int, int]:
        """A part after a change, with the numbers of rows put and removed."""
        import duckdb

        key = ", ".join(f'"{name}"' for name in self._opened.key)
        newer = ", ".join([*(f'"{name}" DESC' for name in ORDER), "_new DESC"])
        newest_first = "_new DESC" if forced else newer
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.execute("SET TimeZone='UTC'")
            connection.register("old", old)
            connection.register("new", new)
            connection.register("gone", gone)
            rows = connection.execute(f"""
                SELECT * FROM (
                    SELECT *, 0 AS _new FROM old ANTI JOIN gone USING ({key})
                    UNION ALL BY NAME SELECT *, 1 AS _new FROM new)
                QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest_first}) = 1
                ORDER BY {key}""").to_arrow_table()
            query = f"SELECT count(*) FROM old SEMI JOIN gone USING ({key})"
            removed = connection.execute(query).fetchone()
        put = pc.sum(rows["_new"]).as_py() or 0
        return rows.select(self._schema().names).cast(self._schema()), put, removed[0]  # type: ignore[index]

    # The shape.

    def _schema(self) -> pa.Schema:
        """The columns of a part."""
        return pa.schema(pa.field(f.name, flat_type(f.type)) for f in self._opened.schema())

    def _renamed(self, now: Manifest, shape: Shape) -> dict[str, str]:
        """The columns of the parts by the names that they are to have."""
        by_number = {number: name for number, name, _ in now.columns}
        names = {name for _, name, _ in now.columns}
        same = now.identity == shape.identity
        found = {
            column.name: (by_number.get(column.number) if same else None) or column.name
            for column in shape.columns
        }
        found = {new: old for new, old in found.items() if old in names}
        if tuple(found.get(name, name) for name in shape.key) != now.key:
            raise Permanent(
                f"{self._where.folder}: is kept by {', '.join(now.key)}, not by "
                f"{', '.join(shape.key)}",
                action="deliver to another folder, or remove this one: it is made again",
            )
        types = {name: kind for _, name, kind in now.columns}
        for column in shape.columns:
            have, want = types.get(found.get(column.name, "")), str(flat_type(column.type))
            if have is not None and not _fits(have, want):
                raise Permanent(
                    f"{self._where.folder}: column {column.name} is {have}, and the source now "
                    f"has {want}",
                    action="deliver to another folder, or remove this one: it is made again",
                )
        return found

    def _conformed(self, rows: pa.Table, names: Mapping[str, str], shape: Shape) -> pa.Table:
        """Rows of an old part in the present shape."""
        arrays = []
        for wanted in self._schema():
            have = names.get(wanted.name) or (wanted.name if wanted.name in ORIGIN else None)
            arrays.append(
                pa.nulls(rows.num_rows, wanted.type)
                if have is None
                else rows[have].cast(wanted.type)
            )
        return pa.table(arrays, schema=self._schema())

    # The quarantine.

    def _kept(self, now: Manifest, change: Change) -> str | None:
        """The path of the rejected rows after a change."""
        if not change.rejected and not (change.settled and now.rejected):
            return now.rejected
        entries = [
            entry
            for entry in self._rejected_of(now)
            if entry["delivery"] == change.delivery
            or not any(_inside(entry, part) for part in change.settled)
        ]
        at = datetime.now(UTC).isoformat()
        fresh = {
            (r.row[c.TOPIC_ID], r.row[c.PARTITION], r.row[c.OFFSET], json_row(r.row)): {
                "topic_id": r.row[c.TOPIC_ID],
                "partition": r.row[c.PARTITION],
                "offset": r.row[c.OFFSET],
                "reason": r.reason,
                "row": json_row(r.row),
                "rejected_at": at,
                "delivery": r.row[DELIVERY],
            }
            for r in change.rejected
        }
        entries = [*entries, *fresh.values()]
        if not entries:
            return None
        path = f"{self._where.folder}/_refused/{now.number + 1:010d}-{change.delivery}.jsonl"
        self._store.write(path, "".join(json.dumps(each) + "\n" for each in entries).encode())
        return path

    def _rejected_of(self, now: Manifest) -> list[dict[str, Any]]:
        if now.rejected is None:
            return []
        with self._reading():
            return [json.loads(line) for line in self._store.read(now.rejected).splitlines()]

    # Small things.

    @property
    def _opened(self) -> Shape:
        assert self._shape is not None, "call ensure() first"
        return self._shape

    def _moved(self) -> WriteConflict:
        return WriteConflict(
            f"{self._where.folder}: another delivery was quicker",
            action="read the position again and go on",
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What a manifest names may be gone when a newer one is there."""
        try:
            yield
        except FileNotFoundError:
            raise self._moved() from None


def _by_bucket(rows: pa.Table, key: tuple[str, ...], parts: int) -> dict[int, pa.Table]:
    """The rows of each part, by a hash of the key that never changes."""
    found: dict[int, list[int]] = {}
    columns = [rows[name].cast(pa.string()).to_pylist() for name in key]
    for number, values in enumerate(zip(*columns, strict=True)):
        found.setdefault(zlib.crc32(repr(values).encode()) % parts, []).append(number)
    return {bucket: rows.take(numbers) for bucket, numbers in found.items()}


def _inside(entry: Mapping[str, Any], part: Part) -> bool:
    if part.span is None:
        return True
    span = part.span
    same = (entry["partition"], entry["topic_id"]) == (part.partition, span.topic_id)
    return same and span.start <= int(entry["offset"]) < span.end


def _fits(have: str, want: str) -> bool:
    if have == want or (have, want) in _WIDER:
        return True
    first, second = (re.fullmatch(r"decimal128\((\d+), (\d+)\)", kind) for kind in (have, want))
    return bool(first and second and first[2] == second[2] and int(first[1]) < int(second[1]))


def _type(kind: str) -> pa.DataType:
    """A type of a part's column by its name."""
    if decimal := re.fullmatch(r"decimal128\((\d+), (\d+)\)", kind):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if stamp := re.fullmatch(r"timestamp\[us(?:, tz=(.+))?\]", kind):
        return pa.timestamp("us", tz=stamp[1])
    return pa.type_for_alias(kind)
