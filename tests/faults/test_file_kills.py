"""Files land once whatever dies on the way; a large one in little memory.

`--csv-mb 2000` makes the large one as large.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from ingestion_platform.lake.land_files import landed_position
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from services import Services
from tests.support.oracle import read_table, strict_json
from tests.support.processes import Attempt, Worker
from tests.support.testbed import new_stream, separate_environment

pytestmark = [pytest.mark.services]

MEMORY = 1_000_000  # kilobytes that a process may have resident


class Scene:
    """A stream of files on the shared servers, and a worker to run it."""

    def __init__(self, services: Services, worker: Worker, folder: Path) -> None:
        self.env = separate_environment(services) | {
            "PLATFORM_HOME": str(folder / "home"),
            "DROP_SETTLE_SECONDS": "0.05",
        }
        self.env["DROP_URL"] = self.env["LAKE_URL"].replace("master_dataset", "drop")
        self.platform = Platform(Settings.load(self.env, root=folder))
        self.stream: Stream = replace(new_stream(folder), partitions=0)
        self._worker = worker

    def start(self) -> Attempt:
        """Begin a run in a process of its own."""
        return self._worker.start("run", self.env, self.stream)

    def offsets(self) -> list[int]:
        """The offsets in both tables."""
        tables = (self.stream.bronze_table, self.stream.quarantine_table)
        found = [read_table(self.platform.settings, name)["_offset"] for name in tables]
        return sorted(offset for column in found for offset in column.to_pylist())


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A stream whose drop zone is empty."""
    return Scene(servers, worker, tmp_path)


@pytest.mark.fault("files", "kill -9 while files are copied, archived, claimed, landed or loaded")
def test_kills_while_files_come_in(
    scene: Scene,
    rng: random.Random,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Every content lands once, copies of it never, and no file is left over."""
    contents: set[bytes] = set()
    kills = max(1, int(request.config.getoption("kills")) // 3)
    phases: dict[str, int] = {}
    done = number = 0
    while done < kills:
        for _ in range(rng.randrange(1, 3)):
            records = simulate("pgr_events", 400, seed=number // 2, bad_ratio=0.05, days=0.5)
            values = [r.value for r in records if r.value and _is_json(r.value)]
            data = b"\n".join(values)
            contents.add(data)
            # Every other one is a copy, more or less: the same seed, perhaps in another second.
            scene.platform.drop.write(f"{scene.stream.name}/{number}.jsonl", data)
            number += 1
        attempt = scene.start()
        if attempt.ended(rng.uniform(0.05, 1.5)):
            assert attempt.wait() == "ok", attempt.outcome()
            continue
        attempt.send(signal.SIGKILL)
        assert attempt.wait() in ("", "ok"), attempt.outcome()
        phases[attempt.phase()] = phases.get(attempt.phase(), 0) + 1
        done += 1
    record_property("kills", phases)
    run_stream(scene.platform, scene.stream)
    expected = sum(len(data.split(b"\n")) for data in contents)
    assert scene.offsets() == list(range(expected))
    assert verify_stream(scene.platform, scene.stream).ok
    assert scene.platform.file_source(scene.stream).zone.waiting() == []


def _is_json(value: bytes) -> bool:
    try:
        strict_json(value.decode())
    except ValueError:
        return False
    return b"\n" not in value


@pytest.mark.slow
@pytest.mark.fault("files", "kill -9 in the middle of a large file")
def test_a_large_file_lands_once_in_little_memory(
    scene: Scene,
    rng: random.Random,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Killed three times on the way; each row is there once, in the order of the file."""
    megabytes = int(request.config.getoption("csv_mb"))
    file = tmp_path / "large.csv"
    rows = write_csv(file, megabytes * 1_000_000)
    scene.platform.drop.write_file(f"{scene.stream.name}/large.csv", file)
    file.unlink()
    peak, landed = 0, []
    for _ in range(3):
        attempt = scene.start()
        # A part of the file begins and ends some twelve steps; there is one for each 12 MB.
        peak = max(peak, watch(attempt, rng.randrange(1, megabytes // 3)))
        attempt.send(signal.SIGKILL)
        attempt.wait()
        at = landed_position(scene.platform.store, scene.stream.topic)
        landed.append(0 if at is None else at.offset)
    assert landed == sorted(landed)
    assert landed[-1] > 0
    attempt = scene.start()
    peak = max(peak, watch(attempt, None))
    assert attempt.wait() == "ok", attempt.outcome()
    record_property("peak_kilobytes", peak)
    record_property("landed_after_kills", landed)
    print(f"{rows:,} rows, {megabytes} MB: peak {peak:,} kB, landed {landed}")  # noqa: T201
    check_rows(scene, rows)
    assert peak < MEMORY


def write_csv(file: Path, size: int) -> int:
    """Write a CSV file of events of about a size, each with its number; gives how many."""
    rows = size // 330
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(
            f"""COPY (SELECT DATE '2024-12-17' AS event_date,
                TIMESTAMP '2024-12-17 10:00:00' + to_seconds(i % 3600) AS event_time,
                'TENANT_00' || i % 9 AS tenant_id, 'PGR' AS service, 'complaint' AS entity_type,
                'CMP_' || i AS entity_id, 'CaseSubmitted' AS event_type, 'OPEN' AS status,
                'CITIZEN' AS actor_type, 'CIT_' || i % 1000 AS actor_id, 'WEB' AS channel,
                'WARD_' || i % 50 AS ward_id, 'LOC_' || i % 500 AS locality_id,
                '{{"complaint_type": "Water, Supply", "priority": "LOW", "sla_hours": '
                || i % 72 + 1 || '}}' AS attributes_json,
                repeat('a long remark ', 8) || i AS raw_payload
            FROM range({rows}) t(i)) TO '{file}' (HEADER)"""
        )
    return rows


def watch(attempt: Attempt, steps: int | None) -> int:
    """Follow a process until so many steps, or to its end; gives its peak memory in kilobytes."""
    peak = 0
    while not attempt.ended(0.02):
        peak = max(peak, _peak(attempt.pid))
        if steps is not None and attempt.steps() >= steps:
            break
    return peak


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def check_rows(scene: Scene, rows: int) -> None:
    """Each row once, at the offset of its place in the file."""
    table = scene.platform.catalog.load_table(scene.stream.bronze_table)
    found = table.scan(selected_fields=("_offset", "entity_id", "attributes_json")).to_arrow()
    offsets = found["_offset"]
    assert found.num_rows == rows
    assert len(pa.compute.unique(offsets)) == rows
    assert pa.compute.max(offsets).as_py() == rows - 1
    places = pa.compute.cast(pa.compute.utf8_slice_codeunits(found["entity_id"], 4), pa.int64())
    assert pa.compute.all(pa.compute.equal(places, offsets)).as_py()
    assert found["attributes_json"][0].as_py().startswith('{"complaint_type":"Water, ')
