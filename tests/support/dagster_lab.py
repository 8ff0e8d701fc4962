"""What the tests of this folder share: a stream and a Dagster instance of their own."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import dagster as dg
import yaml

from ingestion_platform.orchestration import assets, failing
from ingestion_platform.orchestration.component import stream_definitions
from ingestion_platform.orchestration.partitions import Slice, parse_slice, slice_key
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream

TODAY = datetime.now(UTC).date()

Event = dg.AssetMaterialization | dg.AssetObservation


def days_ago(days: int) -> date:
    """The ingest date so many days before today."""
    return TODAY - timedelta(days=days)


@dataclass
class Told:
    """What a run told Dagster."""

    events: list[Event]
    checks: dict[str, dg.AssetCheckEvaluation]
    success: bool = True

    def of(self, key: dg.AssetKey, kind: type[Event] = dg.AssetMaterialization) -> dict[Slice, Any]:
        """The metadata values of an asset's events, by slice; later events win."""
        return {
            parse_slice(e.partition or ""): {name: v.value for name, v in e.metadata.items()}
            for e in self.events
            if e.asset_key == key and isinstance(e, kind)
        }


@dataclass
class Lab:
    """A stream, its platform, and a Dagster instance that ends with the test."""

    stream: Stream
    settings: Settings
    instance: dg.DagsterInstance
    start: date | None = None
    """The first partition; by default the first date that a record can have."""

    @property
    def platform(self) -> Platform:
        """Opened again, as every run does."""
        return Platform(self.settings)

    @property
    def lake(self) -> dg.AssetKey:
        """The lake's key."""
        return assets.lake_key(self.stream)

    @property
    def bronze(self) -> dg.AssetKey:
        """The bronze table's key."""
        return assets.bronze_key(self.stream)

    def produce(self, count: int, ingest_date: date, *, bad: float = 0.0, seed: int = 1) -> None:
        """Send records whose broker timestamps lie in one ingest date."""
        noon = datetime.combine(ingest_date, time(12 if ingest_date < TODAY else 0), UTC)
        stamp = int(noon.timestamp() * 1000)
        records = simulate(
            "pgr_events", count, seed=seed, bad_ratio=bad, start=noon - timedelta(days=3)
        )
        sent = produce(
            self.settings,
            self.stream.topic,
            [replace_timestamp(record, stamp + i) for i, record in enumerate(records)],
        )
        assert not sent.failed

    def materialize(
        self,
        start: Slice,
        end: Slice | None = None,
        *,
        only: Iterable[dg.AssetKey] = (),
    ) -> Told:
        """Materialize a slice or a rectangle of lake and bronze, or of some of them."""
        selection = list(only) or [self.lake, self.bronze]
        if end is None:
            return self.run(asset_selection=selection, partition_key=slice_key(start))
        tags = {
            "dagster/asset_partition_range_start": slice_key(start),
            "dagster/asset_partition_range_end": slice_key(end),
        }
        return self.run(asset_selection=selection, tags=tags)

    def check(self) -> Told:
        """Execute the checks of bronze alone."""
        definitions = self.definitions()
        selection = dg.AssetSelection.checks_for_assets(self.bronze)
        job = dg.define_asset_job("checks", selection)
        merged = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
        result = merged.resolve_job_def("checks").execute_in_process(
            instance=self.instance, raise_on_error=False
        )
        _raise_failure(result)
        return _told(result)

    def definitions(self) -> dg.Definitions:
        """The stream's definitions, with this platform."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.Definitions.merge(
                stream_definitions(self.stream, self.start or self.stream.first_date),
                dg.Definitions(
                    resources={"platform": self.platform}, executor=dg.in_process_executor
                ),
            )

    def run(self, *, raise_on_error: bool = True, **how: Any) -> Told:
        """Execute a run of some assets in this process; a blocked one is no error."""
        job = self.definitions().resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=self.instance, raise_on_error=False, **how)
        if raise_on_error:
            _raise_failure(done)
        return _told(done)

    def released(self) -> set[date]:
        """The ingest dates of which bronze has materialized slices: silver and gold may take
        them."""
        keys = self.instance.get_materialized_partitions(self.bronze)
        return {parse_slice(key)[0] for key in keys}

    def rows(self) -> int:
        """Rows in bronze."""
        return int(self.platform.catalog.load_table(self.stream.bronze_table).scan().count())

    def under(self, edit: Callable[[dict[str, Any]], None]) -> Lab:
        """The same topic, lake and tables under an edited contract."""
        document = yaml.safe_load(self.stream.contract_file.read_text())
        edit(document)
        file = self.stream.contract_file.with_name(f"{uuid.uuid4().hex}.odcs.yaml")
        file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        return replace(self, stream=replace(self.stream, contract_file=file))


def replace_timestamp(record: Any, stamp: int) -> Any:
    """The record with another broker timestamp, in milliseconds."""
    return record._replace(timestamp_ms=stamp)


def _raise_failure(result: dg.ExecuteInProcessResult) -> None:
    """Raise the error of a step, unless all that failed is a blocking check."""
    for event in result.all_events:
        data: Any = event.event_specific_data
        if event.is_step_failure and failing.kind_of(data) != failing.BLOCKED:
            if data.user_failure_data is not None:
                raise dg.Failure(data.user_failure_data.description)
            raise RuntimeError(data.error.to_string())


def _told(result: dg.ExecuteInProcessResult) -> Told:
    events: list[Event] = []
    checks = {}
    for event in result.all_events:
        data: Any = event.event_specific_data
        if event.is_step_materialization:
            events.append(data.materialization)
        elif event.event_type_value == "ASSET_OBSERVATION":
            events.append(data.asset_observation)
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            checks[data.check_name] = data
    return Told(events, checks, result.success)
