"""The Python client: send records, load files, run and verify streams, read tables.

from ingestion_platform import Client

client = Client()
client.send("pgr_events", {"event_date": "2026-11-20", ...})
client.run("pgr_events")
client.frame("pgr_events")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import Permanent
from ingestion_platform.pipeline import load_files, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams, require_topic, select

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ingestion_platform.operations.quarantine import Rejected
    from ingestion_platform.operations.verify import Verification
    from ingestion_platform.produce.keys import KeyOf
    from ingestion_platform.produce.producer import Report
    from ingestion_platform.produce.record import Record
    from ingestion_platform.progress.status import StreamStatus


class DeliveryFailed(Permanent):
    """Some records were not acknowledged; `report` has them, with reasons."""

    def __init__(self, topic: str, report: Report) -> None:
        first = report.failed[0].reason if report.failed else "nothing was acknowledged in time"
        super().__init__(
            f"topic {topic}: {report.sent - report.delivered} of {report.sent} records were not "
            f"acknowledged: {first}",
            action="check that the brokers are up, then send the records of `report.failed` again",
        )
        self.report = report


class Client:
    """The platform of some settings; by default those of the environment and `.env`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self._platform = Platform(self.settings)

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The declared streams, by name."""
        return declared_streams()

    def send(
        self,
        stream: str,
        records: Mapping[str, Any] | bytes | Iterable[Mapping[str, Any] | bytes],
        *,
        key: str | None = None,
    ) -> Report:
        """Send records to a stream's topic; return when all replicas have acknowledged them.

        A record is a dict (dates, times, decimals and UUIDs are encoded for JSON)
        or the bytes of a JSON object. The contract's defaults are filled in first. `key` is the
        field whose value becomes the Kafka key, by default `Stream.key_field`.

        Raises:
            UnknownStream: no stream has that name.
            DeliveryFailed: some were not acknowledged.
            SourceUnavailable: there is no broker.
            NoTopic: the stream takes files only.
        """
        from ingestion_platform.kafka.client import ensure_topic
        from ingestion_platform.produce.defaults import completer
        from ingestion_platform.produce.keys import key_of
        from ingestion_platform.produce.producer import produce

        chosen = require_topic(self._stream(stream))
        ensure_topic(self.settings, chosen.topic, chosen.partitions)
        given = [records] if isinstance(records, Mapping | bytes) else records
        made = _encoded(given, completer(chosen.contract), key_of(chosen, key))
        report = produce(self.settings, chosen.topic, made)
        if report.delivered < report.sent or report.failed:
            raise DeliveryFailed(chosen.topic, report)
        return report

    def load(self, stream: str, *files: str | Path) -> None:
        """Land and load files (CSV, Parquet, JSONL, JSON array; gzip, zstd), each content once.

        Raises:
            UnknownStream: no stream has that name.
            UnreadableFile: a file cannot be parsed; only the files before it are landed.
            Transient, Permanent: as `pipeline.load_files`.
        """
        load_files(self._platform, self._stream(stream), [Path(file) for file in files])

    def run(self, *streams: str) -> None:
        """Land and load streams (by default all) up to the present end of their logs.

        Raises:
            UnknownStream: no stream has that name.
            Transient, Permanent: as `pipeline.run_stream`.
        """
        for stream in self._streams(streams):
            run_stream(self._platform, stream)

    def status(self, stream: str) -> StreamStatus:
        """Return the positions of a stream in log, lake and tables.

        Raises:
            UnknownStream: no stream has that name.
            Transient: broker, store or catalog does not answer.
        """
        from ingestion_platform.progress.status import stream_status

        return stream_status(self._platform, self._stream(stream))

    def verify(self, stream: str) -> Verification:
        """Compare a stream's lake with its tables, by position and by value.

        Raises:
            UnknownStream: no stream has that name.
            Transient, Permanent: as `verify.verify_stream`.
        """
        from ingestion_platform.operations.verify import verify_stream

        return verify_stream(self._platform, self._stream(stream))

    def quarantine(
        self, stream: str, *, reason: str | None = None, limit: int | None = None
    ) -> list[Rejected]:
        """Return a stream's rejected records with bytes and reasons, in the order of the log.

        `reason` is a part of one of a record's reasons, in any case.

        Raises:
            UnknownStream: no stream has that name.
            Transient: catalog or store does not answer.
        """
        from ingestion_platform.operations.quarantine import Choice, find

        return find(self._platform, self._stream(stream), Choice(reason=reason), limit=limit)

    def read(self, table: str) -> pa.Table:
        """Return a whole table (namespace.name), or a stream's bronze table by the stream's name.

        Raises:
            QueryError: the table does not exist.
        """
        streams = self.streams
        name = streams[table].bronze_table if table in streams else table
        namespace, _, simple = name.rpartition(".")
        return self.query(f'SELECT * FROM "{namespace}"."{simple}"')

    def frame(self, table: str, *, quarantined: bool = False) -> pd.DataFrame:
        """Return a table like `read` as a pandas DataFrame of Arrow types, which keep nulls exact.

        `quarantined` gives a stream's quarantine table instead.

        Raises:
            QueryError: there is no such table.
            UnknownStream: `quarantined`, and no stream of that name.
        """
        import pandas as pd

        name = self._stream(table).quarantine_table if quarantined else table
        return self.read(name).to_pandas(types_mapper=pd.ArrowDtype)

    def query(self, sql: str) -> pa.Table:
        """Return the result of a read-only query in DuckDB's SQL over the Iceberg tables.

        Raises:
            QueryError: the query is invalid, or a table or column does not exist.
        """
        from ingestion_platform.warehouse.reading import query

        return query(self.settings, sql)

    def _stream(self, name: str) -> Stream:
        return select(self.streams, [name])[0]

    def _streams(self, names: Iterable[str]) -> list[Stream]:
        return select(self.streams, list(names) or list(self.streams))


def _encoded(
    records: Iterable[Mapping[str, Any] | bytes], complete: Callable[[bytes], bytes], key: KeyOf
) -> Iterator[Record]:
    import msgspec

    from ingestion_platform.produce.record import Record

    encoder = msgspec.json.Encoder(decimal_format="number")
    for record in records:
        value = complete(record if isinstance(record, bytes) else encoder.encode(record))
        yield Record(key(value), value)
