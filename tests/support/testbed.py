"""Settings, streams and contracts of a test's own, on servers that it shares with others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import yaml

from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.settings import Settings
from ingestion_platform.streams import DOMAINS_FOLDER, Stream
from services import Services

PGR = DOMAINS_FOLDER / "pgr" / "pgr_events.odcs.yaml"

Edit = Callable[[dict[str, Any]], None]


def separate_settings(services: Services, root: Path) -> Settings:
    """Settings of running servers whose lake, warehouse and catalog nobody else has."""
    return Settings.load(separate_environment(services), root=root)


def separate_environment(services: Services) -> dict[str, str]:
    """The variables of such settings."""
    env, own = services.env(), f"t{uuid.uuid4().hex[:12]}"
    # A Trino that runs has another catalog: see `trino_sql`.
    env = {name: value for name, value in env.items() if not name.startswith("TRINO_")}
    prefix = "PYICEBERG_CATALOG__LAKEHOUSE__"
    uri = env[f"{prefix}URI"]
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {own}")
    return env | {
        "LAKE_URL": f"s3://bucket-0/{own}/master_dataset",
        f"{prefix}WAREHOUSE": f"s3://bucket-0/{own}/warehouse",
        f"{prefix}URI": f"{uri}?options=-csearch_path%3D{own}",
    }


def new_stream(
    folder: Path,
    settings: Settings | None = None,
    *,
    contract: dict[str, Any] | None = None,
    edit: Edit | None = None,
    partitions: int = 4,
    **topic_config: str | int,
) -> Stream:
    """A stream of `contract` (an ODCS document; pgr's own by default), edited, in a new topic.

    Without settings no topic is created.
    """
    own = uuid.uuid4().hex[:12]
    document = contract or yaml.safe_load(PGR.read_text())
    document["schema"][0]["physicalName"] = f"events_{own}"
    if edit is not None:
        edit(document)
    file = folder / f"stream_{own}.odcs.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    stream = Stream(
        name=f"stream_{own}",
        domain="test",
        topic=f"topic-{own}",
        contract_file=file,
        group_id=f"group-{own}",
        partitions=partitions,
    )
    if settings is not None:
        ensure_topic(settings, stream.topic, partitions, **topic_config)
    return stream


def edited(stream: Stream, edit: Edit) -> Stream:
    """The stream after an edit of its contract; the file on disk stays as it is."""
    document = yaml.safe_load(stream.contract_file.read_text())
    edit(document)
    file = stream.contract_file.with_name(f"{uuid.uuid4().hex[:8]}.odcs.yaml")
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    names = ("name", "domain", "topic", "group_id", "partitions", "start_date")
    return Stream(contract_file=file, **{name: getattr(stream, name) for name in names})
