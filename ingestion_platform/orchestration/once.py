"""Materialize domains from their topics to gold once, in a separate process (for the demo).

`python -m ingestion_platform.orchestration.once FD LAST DOMAIN=FIRST...` writes one JSON line per
run to the file descriptor FD. Dagster and dbt write to standard output and standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg
from filelock import FileLock

from ingestion_platform.orchestration.assets import bronze_key, lake_key
from ingestion_platform.orchestration.component import stream_definitions
from ingestion_platform.orchestration.dbt import dbt_definitions
from ingestion_platform.orchestration.instance import prepare_dagster_home
from ingestion_platform.orchestration.partitions import all_partitions, slice_key
from ingestion_platform.orchestration.resources import platform_resources
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import DOMAINS_FOLDER, Stream, declared_streams

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

Bounds = tuple[str, str]
"""The first and the last partition key of a run."""


def materialize(
    platform: Platform, firsts: Mapping[str, date], last: date
) -> Iterator[dict[str, Any]]:
    """Run each domain's streams from its first ingest date to `last`, then all models.

    Yields the outcome of each run as plain data, and stops after a failed run.
    """
    streams = {s.name: s for s in declared_streams(DOMAINS_FOLDER).values() if s.domain in firsts}
    first = min(firsts.values())
    repository = dg.Definitions.merge(
        *(stream_definitions(stream, first) for stream in streams.values()),
        # Start dbt once instead of once per domain.
        dbt_definitions(streams, lambda _: first, together=True),
        dg.Definitions(resources=platform_resources(), executor=dg.in_process_executor),
    ).get_repository_def()
    graph = repository.asset_graph
    models = dg.AssetSelection.kind("dbt").resolve(graph)
    runs = [_streams_run(platform, streams, domain, firsts[domain], last) for domain in firsts]
    runs.append((set(models), (first.isoformat(), last.isoformat())))
    with _instance(platform.settings) as instance:
        for keys, bounds in runs:
            job = repository.get_implicit_job_def_for_assets(keys)
            if job is None:
                raise ValueError(f"{keys} cannot be run together")
            began = time.monotonic()
            result = job.execute_in_process(
                instance=instance,
                asset_selection=sorted(keys),
                tags=dict(zip(_RANGE, bounds, strict=True)),
                raise_on_error=False,
            )
            yield {
                "assets": {
                    key.to_user_string(): graph.get(key).group_name
                    for key in graph.toposorted_asset_keys
                    if key in keys
                },
                "seconds": round(time.monotonic() - began, 2),
                "run": result.run_id,
                "success": result.success,
                "checks": _checks(result.get_asset_check_evaluations()),
            }
            if not result.success:
                return


def _instance(settings: Settings) -> dg.DagsterInstance:
    # Concurrent creation of Dagster's databases fails.
    with FileLock(prepare_dagster_home(settings) / "once.lock"):
        return dg.DagsterInstance.get()


def _streams_run(
    platform: Platform, streams: Mapping[str, Stream], domain: str, first: date, last: date
) -> tuple[set[dg.AssetKey], Bounds]:
    """Return the lake and bronze assets of a domain; file slices only if files are waiting."""
    own = [stream for stream in streams.values() if stream.domain == domain]
    keys = {key(stream) for stream in own for key in (lake_key, bronze_key)}
    partitions = all_partitions(own[0])
    if not any(platform.file_source(stream).zone.waiting() for stream in own):
        partitions.pop()
    return keys, (slice_key((first, partitions[0])), slice_key((last, partitions[-1])))


def _checks(evaluations: Iterable[dg.AssetCheckEvaluation]) -> list[dict[str, Any]]:
    return [
        {
            "asset": each.asset_key.to_user_string(),
            "check": each.check_name,
            "passed": each.passed,
            "severity": each.severity.value,
            "description": each.description or "",
        }
        for each in evaluations
    ]


def _main(output: str, last: str, *domains: str) -> None:
    platform = Platform(Settings.load())
    firsts = dict(each.split("=") for each in domains)
    with os.fdopen(int(output), "w", buffering=1) as lines:
        for run in materialize(
            platform,
            {domain: date.fromisoformat(first) for domain, first in firsts.items()},
            date.fromisoformat(last),
        ):
            lines.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
