"""The file source in Dagster: the sensor asks for what came, the assets land, load and tell of
it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from ingestion_platform.lake.names import FILES
from ingestion_platform.orchestration import assets
from ingestion_platform.orchestration.file_sensor import file_sensor
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import FileSource
from tests.support.dagster_lab import TODAY, Lab

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def lab(lab: Lab, tmp_path: Path) -> Lab:
    """A stream with a file source in a folder of the test's own."""
    settings = lab.settings.replace(drop_url=(tmp_path / "drop").as_uri(), drop_settle_seconds=0.0)
    stream = replace(lab.stream, files=FileSource("zone"))
    return replace(lab, settings=settings, stream=stream)


def drop(lab: Lab, name: str, count: int) -> None:
    """Put a file of events into the zone."""
    lines = [r.value or b"" for r in simulate("pgr_events", count, seed=count)]
    lab.platform.drop.write(f"zone/{name}", b"\n".join(lines))


def tick(lab: Lab, cursor: str | None = None) -> Any:
    """One tick of the sensor."""
    context = dg.build_sensor_context(
        instance=lab.instance,
        cursor=cursor,
        definitions=lab.definitions(),
        resources={"platform": lab.platform},
    )
    return file_sensor(lab.stream, lab.stream.first_date).evaluate_tick(context)


def test_a_stable_file_is_asked_for_once(lab: Lab) -> None:
    """At its second look; after the run there is nothing to do, and the zone is observed."""
    first = tick(lab)
    assert "no files wait" in first.skip_message
    drop(lab, "a.jsonl", 30)
    second = tick(lab, first.cursor)
    assert second.run_requests == []
    assert "being written" in second.skip_message
    third = tick(lab, second.cursor)
    (request,) = third.run_requests
    assert (request.tags[START], request.tags[END]) == (f"{TODAY}|files", f"{TODAY}|files")
    told = lab.run(asset_selection=request.asset_selection, tags=request.tags)
    assert told.of(lab.lake)[TODAY, FILES]["rows"] == 30
    assert told.of(lab.bronze)[TODAY, FILES]["rows"] == 30
    assert all(check.passed for check in told.checks.values())
    fourth = tick(lab, third.cursor)
    assert fourth.run_requests == []
    (event,) = fourth.asset_events
    assert (event.asset_key, event.partition) == (assets.raw_key(lab.stream), "files")
    seen = {name: value.value for name, value in event.metadata.items()}
    assert seen == seen | {"waiting_files": 0, "records": 30, "lag": 0}


def test_what_was_landed_and_not_loaded_is_asked_for(lab: Lab) -> None:
    """Also after the file has left the zone."""
    drop(lab, "a.jsonl", 30)
    lab.materialize((TODAY, FILES), only=[lab.lake])
    (request,) = tick(lab).run_requests
    assert request.tags[START] == f"{TODAY}|files"
    lab.run(asset_selection=request.asset_selection, tags=request.tags)
    assert tick(lab).run_requests == []
    assert lab.rows() == 30


def test_one_run_lands_both_apis(lab: Lab) -> None:
    """A rectangle that reaches from the topic's partitions to the files."""
    lab.produce(40, TODAY)
    drop(lab, "a.jsonl", 30)
    told = lab.materialize((TODAY, 0), (TODAY, FILES))
    assert sum(each["rows"] for each in told.of(lab.bronze).values()) == 70
    assert lab.rows() == 70
    assert lab.check().checks["lag"].passed


def test_a_file_that_cannot_be_parsed_fails_its_run_alone(lab: Lab) -> None:
    """The others are landed and told of; the next run goes on without it."""
    lab.platform.drop.write("zone/bad.jsonl.gz", b"not compressed")
    drop(lab, "good.jsonl", 30)
    with pytest.raises(dg.Failure, match=r"bad\.jsonl\.gz: is not valid gzip"):
        lab.materialize((TODAY, FILES))
    lab.materialize((TODAY, FILES))
    assert lab.rows() == 30
    assert lab.platform.file_source(lab.stream).zone.waiting() == []


def test_pipe_costs_one_run(lab: Lab) -> None:
    """It is asked for like a file, set aside by a run that lands the others, and then gone."""
    drop(lab, "good.jsonl", 30)
    zone = Path(urlsplit(lab.settings.drop_url).path) / "zone"
    os.mkfifo(zone / "pipe.jsonl")
    (zone / "loop.jsonl").symlink_to(".")
    first = tick(lab)
    second = tick(lab, first.cursor)
    assert second.run_requests
    with pytest.raises(dg.Failure, match=r"2 files were refused.*is a named pipe"):
        lab.materialize((TODAY, FILES))
    lab.materialize((TODAY, FILES))
    assert lab.rows() == 30


def test_copy_is_told_by_assets(lab: Lab) -> None:
    """The run's event of the lake has its files, the observed zone the last copy."""
    drop(lab, "monday.jsonl", 30)
    data = lab.platform.drop.read("zone/monday.jsonl")
    lab.materialize((TODAY, FILES))
    cursor = tick(lab).cursor
    lab.platform.drop.write("zone/tuesday.jsonl", data)
    told = lab.materialize((TODAY, FILES))
    files = told.of(lab.lake)[TODAY, FILES]["files"]
    assert "| `tuesday.jsonl` | copy | 0 | `it landed nothing, because its content was" in str(
        files
    )
    (event,) = tick(lab, cursor).asset_events
    seen = {name: value.value for name, value in event.metadata.items()}
    assert seen["copies"] == 1
    assert "tuesday.jsonl came on" in seen["last_copy"]


def test_files_that_change_for_ever_hide_no_others(lab: Lab) -> None:
    """More of them than a tick remembers."""
    zone = Path(urlsplit(lab.settings.drop_url).path) / "zone"
    drop(lab, "good.jsonl", 30)
    text, asked = None, False
    for number in range(40):
        for other in range(300):
            (zone / f"{other}.jsonl").write_bytes(b" " * number)
            os.utime(zone / f"{other}.jsonl", (0, 0))
        answer = tick(lab, text)
        text, asked = answer.cursor, asked or bool(answer.run_requests)
        if asked:
            break
    assert asked


def test_a_stream_of_files_alone_needs_no_broker(lab: Lab) -> None:
    """Nothing asks for its topic."""
    alone = replace(lab.stream, partitions=0, topic="no-such-topic")
    lab = replace(lab, stream=alone)
    drop(lab, "a.jsonl", 30)
    told = lab.materialize((TODAY, FILES))
    assert list(told.of(lab.bronze)) == [(TODAY, FILES)]
    assert all(check.passed for check in told.checks.values())
    names = [sensor.name for sensor in lab.definitions().sensors or []]
    assert names == [f"{alone.name}_files"]
