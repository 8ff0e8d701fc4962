"""A folder of parts, each with the keys of one hash.

A change writes the parts that it touches under new names, then a manifest that names all parts,
the position and the rejected rows. The number of a manifest can be taken once, so that of two
concurrent deliveries one starts again. For exports of some million rows: a change costs as much
as the parts that it touches.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.lake.store import Store
from ingestion_platform.sinks.base import (
    DELIVERY,
    ORDER,
    Applied,
    Change,
    Column,
    Part,
    Rejected,
    Shape,
    Target,
)
from ingestion_platform.sinks.evolution import Evolution
from ingestion_platform.sinks.files import PARTS, Options
from ingestion_platform.sinks.text import csv_bytes, flat, flat_type

_NUMBERED = re.compile(r"(?:^|/)part-\d{4}-(\d{10})-[^/]*$")


@dataclass(frozen=True)
class Manifest:
    """Content of the folder. The newest manifest counts."""

    number: int
    position: str
    shape: Shape
    parts: int = PARTS
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Path and number of rows of each part, by the number of the part as text."""
    rejected: str | None = None
    """Path of the rejected rows."""

    def to_json(self) -> bytes:
        """Return the manifest as a file."""
        return json.dumps(vars(self) | {"shape": self.shape.to_json()}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Return the manifest in a file."""
        given = json.loads(data)
        given["shape"] = Shape.from_json(given["shape"])
        given["files"] = {name: tuple(each) for name, each in given["files"].items()}
        return cls(**given)


class FilesTarget(Target[Manifest]):
    """Methods are documented in Target."""

    kind = "folder"

    def __init__(self, store: Store, options: Options) -> None:
        super().__init__(options.folder)
        self._store = store
        self._options = options
        self._manifests = f"{options.folder}/_manifests/"

    def stored_column(self, column: Column) -> Column:
        """See Target: nested values are JSON text, bytes hexadecimal."""
        return replace(column, type=flat_type(column.type), json=False)

    def read_state(self) -> Manifest | None:
        entries, _ = self._store.listing(self._manifests)
        if not entries:
            return None
        with self._reading():
            return Manifest.from_json(self._store.read(max(entry.path for entry in entries)))

    def create(self, shape: Shape) -> Manifest:
        return self._commit(Manifest(1, "", shape, self._options.parts))

    def evolve(self, state: Manifest, evolution: Evolution) -> Manifest:
        """See Target; writes all parts again."""
        number, schema = state.number + 1, evolution.after.schema()
        files = {}
        for bucket, (path, count) in state.files.items():
            rows = self._read(path, state.shape)
            names = [evolution.renamed.get(name, name) for name in rows.column_names]
            rows = rows.rename_columns(names)
            for column in evolution.added:
                rows = rows.append_column(column.name, pa.nulls(count, column.type))
            rows = rows.select(schema.names).cast(schema)
            files[bucket] = (self._write(number, int(bucket), "shape", rows), count)
        after = replace(state, number=number, shape=evolution.after, files=files)
        return self._commit(after, state)

    def write(self, change: Change) -> Applied:
        now = self._current()
        if now.position != change.base:
            raise self.conflict()
        upserts = flat(change.upserts)
        touched = _by_bucket(upserts, self.shape.key, now.parts)
        dropped = _by_bucket(change.deletes, self.shape.key, now.parts)
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
        rejected = self._write_rejected(now, change)
        after = replace(now, position=change.position, files=files, rejected=rejected)
        if after != now:
            self._commit(replace(after, number=now.number + 1), now)
        return Applied(upserted, deleted)

    def scan(self, part: Part, without: str) -> Iterator[pa.Table]:
        now, schema = self._current(), self.shape.place_schema()
        for bucket in sorted(map(int, now.files)):
            rows = self._read_part(now, bucket)
            rows = rows.filter(part.filter() & (pc.field(DELIVERY) != without))
            if rows.num_rows:
                yield rows.select(schema.names).cast(schema)

    def count(self, state: Manifest) -> int:
        return sum(count for _, count in state.files.values())

    def read_rejected(self, state: Manifest, limit: int) -> list[Rejected]:
        entries = self._rejected_of(state)
        return sorted(entries, key=lambda entry: entry.rejected_at, reverse=True)[:limit]

    # Manifests.

    def _current(self) -> Manifest:
        state = self.read_state()
        if state is None:
            raise self.conflict()
        return state

    def _commit(self, after: Manifest, before: Manifest | None = None) -> Manifest:
        """Make a manifest the newest one, then remove the files that it does not name."""
        if not self._store.create(self._path_of(after), after.to_json()):
            raise self.conflict()
        # Files of other deliveries only when their number is taken: they can never be named.
        named = {path for path, _ in after.files.values()}
        for entry in self._store.listing(f"{self.name}/")[0]:
            found = _NUMBERED.search(entry.path)
            if found and entry.path not in named and int(found[1]) <= after.number:
                self._store.remove(entry.path)
        if before and before.rejected and before.rejected != after.rejected:
            self._store.remove(before.rejected)
        for entry in self._store.listing(self._manifests)[0]:
            if before and entry.path < self._path_of(before):
                self._store.remove(entry.path)
        return after

    def _path_of(self, manifest: Manifest) -> str:
        return f"{self._manifests}{manifest.number:010d}.json"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Files of a manifest may be gone when there is a newer one."""
        try:
            yield
        except FileNotFoundError:
            raise self.conflict() from None

    # Parts.

    def _read_part(self, now: Manifest, bucket: int) -> pa.Table:
        path, _ = now.files.get(str(bucket), ("", 0))
        return self._read(path, now.shape) if path else now.shape.schema().empty_table()

    def _read(self, path: str, shape: Shape) -> pa.Table:
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq

        with self._reading():
            data = pa.BufferReader(self._store.read(path))
        if path.endswith(".parquet"):
            return pq.read_table(data)
        return pa_csv.read_csv(
            data,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=shape.schema(),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _write(self, number: int, bucket: int, delivery: str, rows: pa.Table) -> str:
        import pyarrow.parquet as pq

        kind = self._options.format
        path = f"{self.name}/part-{bucket:04d}-{number:010d}-{delivery}.{kind}"
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
        """Return a part after a change, and the numbers of rows put and removed."""
        import duckdb

        schema = self.stored.schema()
        key = ", ".join(f'"{name}"' for name in self.shape.key)
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
        return rows.select(schema.names).cast(schema), put, removed[0]  # type: ignore[index]

    # The quarantine.

    def _write_rejected(self, now: Manifest, change: Change) -> str | None:
        """Return the path of the rejected rows after a change."""
        if not change.rejected and not (change.settled and now.rejected):
            return now.rejected
        old = [
            entry
            for entry in self._rejected_of(now)
            if entry.delivery == change.delivery
            or not any(part.contains(entry) for part in change.settled)
        ]
        entries = [*old, *change.quarantined(self.shape.key)]
        if not entries:
            return None
        path = f"{self.name}/_rejected/{now.number + 1:010d}-{change.delivery}.jsonl"
        lines = [json.dumps(asdict(entry)) + "\n" for entry in entries]
        self._store.write(path, "".join(lines).encode())
        return path

    def _rejected_of(self, now: Manifest) -> list[Rejected]:
        if now.rejected is None:
            return []
        with self._reading():
            lines = self._store.read(now.rejected).splitlines()
        return [Rejected(**json.loads(line)) for line in lines]


def _by_bucket(rows: pa.Table, key: tuple[str, ...], parts: int) -> dict[int, pa.Table]:
    """Return the rows of each part, by a hash of the key that never changes."""
    found: dict[int, list[int]] = {}
    columns = [rows[name].cast(pa.string()).to_pylist() for name in key]
    for number, values in enumerate(zip(*columns, strict=True)):
        found.setdefault(zlib.crc32(repr(values).encode()) % parts, []).append(number)
    return {bucket: rows.take(numbers) for bucket, numbers in found.items()}
