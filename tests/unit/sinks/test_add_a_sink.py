"""The recipe "Add a sink" of CONTRIBUTING.md, followed to the letter: a module and a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_platform.errors import ContractError
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.sinks.deliver import deliver, target_status
from ingestion_platform.sinks.registry import SINKS
from ingestion_platform.streams import Destination
from tests.support.delivered import CONTRACT, Log, expected, item, unflattened
from tests.support.testbed import edited, new_stream

TOY = '''
"""Toy: a pickled file per delivery, replaced as a whole."""

import os
import pickle
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.sinks.base import DELIVERY, ORDER, Applied, Part, Shape, Target
from ingestion_platform.sinks.registry import Sink
from ingestion_platform.sinks.text import flat


@dataclass(frozen=True)
class Options:
    file: str

    @property
    def label(self):
        return self.file


@dataclass(frozen=True)
class State:
    shape: Shape
    position: str
    rows: tuple = ()
    rejected: tuple = ()


class ToyTarget(Target[State]):
    kind = "file"

    def __init__(self, path):
        super().__init__(path.name)
        self._path = path

    def read_state(self):
        return pickle.loads(self._path.read_bytes()) if self._path.exists() else None

    def create(self, shape):
        return self._store(State(shape, ""))

    def evolve(self, state, evolution):
        rows = [{evolution.renamed.get(n, n): v for n, v in row.items()} for row in state.rows]
        return self._store(replace(state, shape=evolution.after, rows=tuple(rows)))

    def write(self, change):
        state = self.read_state()
        if state.position != change.base:
            raise self.conflict()
        key = self.shape.key
        rows = {tuple(row[n] for n in key): row for row in state.rows}
        for row in change.deletes.to_pylist():
            rows.pop(tuple(row.values()), None)
        for row in flat(change.upserts).to_pylist():
            held = rows.get(tuple(row[n] for n in key))
            if held and not change.forced and order(held) > order(row):
                continue
            rows[tuple(row[n] for n in key)] = row
        rejected = [r for r in state.rejected if not any(p.contains(r) for p in change.settled)]
        rejected = (*rejected, *change.quarantined(key))
        self._store(State(state.shape, change.position, tuple(rows.values()), rejected))
        return Applied(change.upserts.num_rows, change.deletes.num_rows)

    def scan(self, part, without):
        schema = self.shape.place_schema()
        rows = [{name: row[name] for name in schema.names} for row in self.read_state().rows]
        yield pa.Table.from_pylist(rows, schema).filter(
            part.filter() & (pc.field(DELIVERY) != without)
        )

    def count(self, state):
        return len(state.rows)

    def read_rejected(self, state, limit):
        return list(state.rejected[:limit])

    def _store(self, state):
        self._path.with_suffix(".new").write_bytes(pickle.dumps(state))
        os.replace(self._path.with_suffix(".new"), self._path)
        return state


def order(row):
    return tuple(row[name] for name in ORDER)


SINK = Sink(
    options=("file",),
    setting="PLATFORM_HOME",
    example="/data",
    parse=lambda given, schema, table: Options(given.get("file", table)),
    configured=lambda settings: True,
    open=lambda settings, options: ToyTarget(settings.home / options.file),
)
'''


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A stream that is delivered to the new sink."""
    (tmp_path / "toy_sink.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SINKS, "toy", "toy_sink")
    settings = Settings.load({"PLATFORM_HOME": str(tmp_path / "home")}, root=tmp_path)
    stream = new_stream(tmp_path, contract=json.loads(json.dumps(CONTRACT)), partitions=2)
    return Log(Platform(settings), replace(stream, deliver=(Destination("toy", {"file": "out"}),)))


def assert_delivered(log: Log) -> None:
    """Deliver, and check that the target has the newest row of each key."""
    (delivery,) = stream_deliveries(log.stream)
    deliver(log.platform, delivery)
    settings = log.platform.settings
    with delivery.open(settings) as target:
        state = target.read_state()
    assert state is not None
    rows = {(row["id"], row["kind"]): unflattened(row) for row in state.rows}
    assert rows == expected(settings, log)
    assert target_status(log.platform, delivery).current


def test_new_sink_receives_rows(log: Log) -> None:
    """New and replaced rows, a renamed column, and rows that leave bronze."""
    log.append(item(k, k) for k in range(40))
    log.append([item(k, 100 + k) for k in range(20)], partition=1)
    log.load()
    assert_delivered(log)

    def renamed(document: dict) -> None:  # type: ignore[type-arg]
        document["version"] = "2.0.0"
        properties = document["schema"][0]["properties"]
        properties[2]["logicalTypeOptions"] = {"maximum": 109}
        properties[3]["name"] = "remark"
        properties[3]["customProperties"] = [{"property": "previousNames", "value": ["note"]}]

    stream = replace(edited(log.stream, renamed), deliver=log.stream.deliver)
    log.load(stream, again=True)
    assert_delivered(log)


def test_new_sink_checks_its_options(log: Log) -> None:
    """A wrong one is named, as for every sink."""
    wrong = replace(log.stream, deliver=(Destination("toy", {"folder": "x"}),))
    with pytest.raises(ContractError, match="folder: is not an option; use file"):
        stream_deliveries(wrong)
