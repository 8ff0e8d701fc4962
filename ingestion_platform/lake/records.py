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
"""Names and values; a null list where the client cannot read the headers of a record."""

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
"""A record as the log had it: nothing is interpreted, a null value (tombstone) stays null.

`timestamp_ms` has the number of a timestamp that is no instant of the years 1970 to 9999;
`timestamp` is null there, so that every engine can read the file."""


def encode(table: pa.Table, segment: Segment) -> bytes:
    """A lake file: the records of `table` (of SCHEMA), and `link` in its footer."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({FOOTER_KEY: segment.footer()}),
        sink,
        compression="zstd",
        compression_level=1,
        # Values rarely repeat: a dictionary is built in vain. The other columns are nearly free.
        use_dictionary=["timestamp_type", "partition"],
        write_statistics=["timestamp", "partition", "offset"],
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read(store: Store, segment: Segment) -> pa.Table:
    """The records of a link's file.

    Raises:
        PositionMoved: the file has given way to a merged one since the link was read.
        ChainBroken: it is damaged.
    """
    path = segment.name.path
    moved = WriteConflict(f"{path} was merged into another file", action="look again")
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise moved from None
    # A writer that slept may have put another file there since.
    if read_footer(store, path, data)[0] != segment:
        raise moved
    return decode(data)


def decode(data: bytes, *, start: int = 0, columns: list[str] | None = None) -> pa.Table:
    """The records of a lake file from offset `start` on."""
    table = pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False)
    offsets = table["offset"]
    if len(offsets) and offsets[0].as_py() < start:
        table = table.filter(pc.greater_equal(offsets, start))
    return table if columns else table.cast(SCHEMA)


def describe(table: pa.Table, segment: Segment, data: bytes, url: str) -> dict[str, Any]:
    """The metadata that readers of the lake look for beside a data file."""
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
