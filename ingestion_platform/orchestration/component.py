"""Dagster components: the YAML types for streams and deliveries, and their definitions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from ingestion_platform import streams
from ingestion_platform.errors import ContractError
from ingestion_platform.orchestration import partitions
from ingestion_platform.orchestration.assets import (
    bronze_asset,
    ingest_job,
    lake_asset,
    lake_key,
    raw_asset,
    raw_key,
)
from ingestion_platform.orchestration.deliveries import delivery_asset
from ingestion_platform.orchestration.file_sensor import file_sensor
from ingestion_platform.orchestration.scaffold import StreamScaffolder
from ingestion_platform.orchestration.sensors import stream_sensor
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import declare
from ingestion_platform.sinks.declare import model_deliveries, stream_deliveries


class StreamAttributes(dg.Model):
    """The attributes of a stream, for editors and `dg check yaml`.

    Only their names and types: what they mean, and what they are when absent, is decided in
    `streams.stream_of`, as for the command line.
    """

    name: str
    topic: str | None = None
    contract: str | None = None
    group_id: str | None = None
    partitions: int | None = None
    start_date: date | str | None = None
    files: dict[str, Any] | None = None
    key: str | None = None
    deliver: list[str | dict[str, dict[str, Any] | None]] | None = None
    http: dict[str, str] | None = None


@dg.scaffold_with(StreamScaffolder)
class Stream(dg.Component):
    """A stream: a topic, files or both, with a contract, landed in the lake and loaded."""

    def __init__(self, stream: streams.Stream) -> None:
        self.stream = stream

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the model of the YAML attributes."""
        return StreamAttributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return the description for listings of components."""
        return dg.ComponentTypeSpec(
            description="A Kafka topic, files or both, with a contract, landed in the lake and "
            "loaded into bronze.",
            produces=["asset", "asset_check", "sensor"],
        )

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Stream:
        """Return the stream of a YAML document.

        Raises:
            ContractError: an attribute is missing or invalid; the message names file and attribute.
        """
        given = {} if attributes is None else attributes.model_dump(exclude_unset=True)
        return cls(streams.stream_of(given, context.path))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the assets, checks and sensors of the stream."""
        return stream_definitions(self.stream)


class DeliveryAttributes(dg.Model):
    """The attributes of a model's deliveries; what they mean is decided in `sinks.declare`."""

    model: str
    key: str | list[str]
    deliver: list[str | dict[str, dict[str, Any] | None]]


class Delivery(dg.Component):
    """A dbt model that is kept equal in other stores."""

    def __init__(self, attributes: dict[str, Any], folder: Path) -> None:
        self.deliveries = model_deliveries(attributes, folder)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the model of the YAML attributes."""
        return DeliveryAttributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return the description for listings of components."""
        return dg.ComponentTypeSpec(
            description="A dbt model, delivered to other stores.",
            produces=["asset", "asset_check"],
        )

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Delivery:
        """Return the deliveries of a YAML document.

        Raises:
            ContractError: an attribute is missing or invalid; the message names file and attribute.
        """
        given = {} if attributes is None else attributes.model_dump(exclude_unset=True)
        return cls(given, context.path)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the assets of the deliveries."""
        return model_definitions(self.deliveries)


def model_definitions(deliveries: Iterable[declare.Delivery]) -> dg.Definitions:
    """Return the assets of a model's deliveries."""
    return dg.Definitions(
        assets=[delivery_asset(each, first_date(each.domain)) for each in deliveries]
    )


@cache  # list the lake once per process
def _first_dates() -> dict[str, date]:
    return partitions.first_dates(Platform(Settings.load()), streams.declared_streams().values())


def first_date(domain: str) -> date:
    """Return the first ingest date that a domain has partitions for."""
    return _first_dates().get(domain, streams.EARLIEST)


def stream_definitions(stream: streams.Stream, start: date | None = None) -> dg.Definitions:
    """Return all definitions of a stream, except the models built on it.

    Partitions begin at `start`, by default the first ingest date of the domain. If the contract or
    a delivery of the stream is invalid, its assets show the error; other streams are not affected.
    """
    try:
        return _definitions(stream, start or first_date(stream.domain))
    except ContractError as error:
        return _unreadable(stream, error)


def _unreadable(stream: streams.Stream, error: ContractError) -> dg.Definitions:
    """Return the raw and lake assets described by the error, and a sensor that reports it."""
    action = f"{error.message}\n\n-> {error.action}, then reload the code location"
    keys = [raw_key(stream), lake_key(stream)]

    @dg.sensor(
        name=f"{stream.name}_{'log' if stream.kafka else 'files'}",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=action,
        tags={"domain": stream.domain},
    )
    def watch() -> dg.SkipReason:
        return dg.SkipReason(str(error))

    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                key,
                description=action,
                group_name=stream.domain,
                metadata={"error": error.message},
                tags={"domain": stream.domain},
            )
            for key in keys
        ],
        sensors=[watch],
    )


def _definitions(stream: streams.Stream, start: date) -> dg.Definitions:
    return dg.Definitions(
        assets=[
            raw_asset(stream),
            lake_asset(stream, start),
            bronze_asset(stream, start),
            *(delivery_asset(each, start) for each in stream_deliveries(stream)),
        ],
        jobs=[ingest_job(stream)],
        sensors=[
            *([stream_sensor(stream, start)] if stream.kafka else []),
            *([file_sensor(stream, start)] if stream.files is not None else []),
        ],
    )
