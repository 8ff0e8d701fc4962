"""Raw records as Arrow tables and Parquet files, and the metadata JSON beside each file."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion_platform.errors import WriteConflict
from ingestion_platform.lake.segments import FOOTER_KEY, Segment, read_footer
from ingestion_platform.lake.store import Store

HEADERS = pa.list_(pa.struct([("key", pa.binary()), ("value", pa.binary())]))
"""Names and values; null where the client cannot read the headers of a record."""

SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", HEADERS),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("timestamp_type", pa.string()),
        ("timestamp_ms", pa.int64()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
    ]
)
"""A record as in the log: nothing is interpreted, a null value (tombstone) stays null.

A timestamp outside the years 1970 to 9999 is null in `timestamp`, which some engines could not
read, and a number in `timestamp_ms`."""


def encode(table: pa.Table, segment: Segment) -> bytes:
    """Return a Parquet file of the records `table` (of SCHEMA) with `segment` in its footer."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({FOOTER_KEY: segment.footer()}),
        sink,
        compression="zstd",
        compression_level=1,
        # Values rarely repeat, so a dictionary costs time and saves nothing.
        use_dictionary=["timestamp_type", "partition"],
        write_statistics=["timestamp", "partition", "offset"],
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read(store: Store, segment: Segment) -> pa.Table:
    """Return the records (of SCHEMA) of a segment's file.

    Raises:
        WriteConflict: a merged file has replaced it since the segment was read.
        SegmentLogBroken: it is damaged.
    """
    path = segment.name.path
    merged = WriteConflict(f"{path} was merged into another file", action="list the files again")
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise merged from None
    # A delayed writer may have put another file there since.
    if read_footer(store, path, data)[0] != segment:
        raise merged
    return decode(data)


def decode(data: bytes, *, start: int = 0, columns: list[str] | None = None) -> pa.Table:
    """Return the records of a lake file from offset `start` on."""
    table = pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False)
    offsets = table["offset"]
    if len(offsets) and offsets[0].as_py() < start:
        table = table.filter(pc.greater_equal(offsets, start))
    return table if columns else table.cast(SCHEMA)


def describe(table: pa.Table, segment: Segment, data: bytes, url: str) -> dict[str, Any]:
    """Return the metadata JSON that stands beside a data file; `url` is the store's."""
    return {
        "source": segment.name.topic if segment.file is None else segment.file.name,
        "data_type": "raw",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "file_path": f"{url}/{segment.name.path}",
        "file_size_bytes": len(data),
        "record_count": table.num_rows,
        "schema": {
            "columns": table.schema.names,
            "dtypes": {field.name: str(field.type) for field in table.schema},
        },
        "checksum_md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "null_counts": {name: table[name].null_count for name in table.schema.names},
        "memory_usage_bytes": table.nbytes,
        **json.loads(segment.footer()),
    }
