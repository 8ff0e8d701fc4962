"""Position delete files, as a MERGE of Trino leaves them; PyIceberg itself writes none."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
)
from pyiceberg.table import Table


class _DeleteManifest(ManifestWriterV2):
    """PyIceberg writes manifests of data files only."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def delete_positions(table: Table, file: DataFile, positions: list[int]) -> None:
    """Commit a position delete file, as a MERGE of Trino leaves one."""
    location = f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet"
    fields = [
        pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}),
    ]
    content = pa.table([[file.file_path] * len(positions), positions], schema=pa.schema(fields))
    with table.io.new_output(location).create() as out:
        pq.write_table(content, out)
    delete = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=file.partition,
        record_count=len(positions),
        file_size_in_bytes=len(table.io.new_input(location)),
        spec_id=file.spec_id,
    )
    transaction = table.transaction()
    producer = transaction.update_snapshot().fast_append()
    spec = table.specs()[file.spec_id]
    output, snapshot_id = producer.new_manifest_output(), producer.snapshot_id
    with _DeleteManifest(spec, table.schema(), output, snapshot_id, "deflate") as writer:
        writer.add(
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=snapshot_id, data_file=delete
            )
        )
    kept = producer._existing_manifests()
    producer._existing_manifests = lambda: [*kept, writer.to_manifest_file()]
    producer.commit()
    transaction.commit_transaction()
    table.refresh()
