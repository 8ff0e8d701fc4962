"""Materialize a stream and all that is built on it, once, in a process of its own (for the demo).

`python -m ingestion_platform.orchestration.once FD STREAM FIRST LAST` writes one JSON line per run
to that file descriptor; what Dagster and dbt say goes to standard output and error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import dagster as dg

from ingestion_platform.definitions import defs
from ingestion_platform.orchestration.assets import bronze_key, lake_key
from ingestion_platform.orchestration.instance import prepare_dagster_home
from ingestion_platform.orchestration.partitions import all_partitions, slice_key
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams, select

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def materialize(stream: Stream, first: date, last: date) -> Iterator[dict[str, Any]]:
    """Run the windows from `first` to `last`; after each run gives its outcome as plain data.

    Stops behind a run that fails.
    """
    repository = defs().get_repository_def()
    built = dg.AssetSelection.assets(bronze_key(stream)).downstream(include_self=False)
    partitions = all_partitions(stream)
    slices = (slice_key((first, partitions[0])), slice_key((last, partitions[-1])))
    days = (first.isoformat(), last.isoformat())
    runs = [
        ({lake_key(stream), bronze_key(stream)}, slices),
        (built.resolve(repository.asset_graph), days),
    ]
    with dg.DagsterInstance.get() as instance:
        for keys, bounds in runs:
            if not keys:
                continue
            began = time.monotonic()
            job = repository.get_implicit_job_def_for_assets(keys)
            if job is None:
                raise ValueError(f"{keys} cannot be run together")
            result = job.execute_in_process(
                instance=instance,
                asset_selection=sorted(keys),
                tags=dict(zip(_RANGE, bounds, strict=True)),
                raise_on_error=False,
            )
            ordered = [k for k in repository.asset_graph.toposorted_asset_keys if k in keys]
            yield {
                "assets": [key.to_user_string() for key in ordered],
                "seconds": round(time.monotonic() - began, 2),
                "run": result.run_id,
                "success": result.success,
                "checks": _checks(result.get_asset_check_evaluations()),
            }
            if not result.success:
                return


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


def _main(output: str, name: str, first: str, last: str) -> None:
    prepare_dagster_home(Settings.load())
    stream = select(declared_streams(), [name])[0]
    with os.fdopen(int(output), "w", buffering=1) as lines:
        for run in materialize(stream, date.fromisoformat(first), date.fromisoformat(last)):
            lines.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
