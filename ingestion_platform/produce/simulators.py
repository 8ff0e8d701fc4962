"""Simulated records of streams, for demos, tests and benchmarks.

A domain's simulators are in its `simulator.py`, as `SIMULATORS` by stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ingestion_platform import plugins
from ingestion_platform.errors import Permanent, UnknownStream
from ingestion_platform.produce.record import Record
from ingestion_platform.streams import Stream, declared_streams, select

if TYPE_CHECKING:
    from ingestion_platform.produce.simulation import Simulator

DAYS = 3.0
"""Default length of the simulated span, in days."""


def simulate(
    stream: str,
    count: int,
    *,
    seed: int = 0,
    bad_ratio: float = 0.0,
    start: datetime | None = None,
    days: float = DAYS,
) -> Iterator[Record]:
    """Return `count` records of a stream in order of arrival, the same for the same arguments.

    They arrive within [start, start + days]; a `start` without a zone is UTC, and by default the
    span ends now. `round(count * bad_ratio)` of them are broken, each in the way that its `fault`
    names. A record's timestamp is its arrival: a topic keeps records of an old `start` only if
    its retention is long enough.

    Raises:
        UnknownStream: no such stream is declared, or its domain has no simulator of it.
        Permanent: an argument is out of range.
    """
    from ingestion_platform.produce.keys import key_of
    from ingestion_platform.produce.simulation import with_faults

    declared = declared_streams()
    chosen = select(declared, [stream])[0]
    simulator = simulator_of(chosen)
    if simulator is None:
        known = [name for name, each in declared.items() if simulator_of(each)]
        raise UnknownStream(
            f"domain {chosen.domain} has no simulator of stream {stream!r}",
            action=f"add it to {chosen.domain}/simulator.py, or use one of: {', '.join(known)}",
        )
    _check("count", count, count >= 0, "0 or more")
    _check("seed", seed, seed >= 0, "0 or more")
    _check("bad ratio", bad_ratio, 0 <= bad_ratio <= 1, "between 0 and 1")
    _check("days", days, 0.001 <= days <= 36_500, "between 0.001 and 36500")
    if start is None:
        start = datetime.now(UTC) - timedelta(days=days)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    start = start.replace(microsecond=0)
    key = key_of(chosen)
    valid = simulator.records(count, seed, start, days)
    records = (record._replace(key=key(record.value)) for record in valid)
    return with_faults(records, count, bad_ratio, seed, simulator.shape)


def simulator_of(stream: Stream) -> Simulator | None:
    """Return the simulator of a stream; None if its domain has none of it."""
    for module in plugins.modules("simulator", stream.domain):
        found: Simulator | None = module.SIMULATORS.get(stream.name)
        if found is not None:
            return found
    return None


def simulated(streams: Iterable[Stream]) -> list[Stream]:
    """Return the streams that have a topic and a simulator."""
    return [stream for stream in streams if stream.kafka and simulator_of(stream)]


def main_stream(streams: Sequence[Stream]) -> Stream:
    """Return the stream to demonstrate most with: the first that takes JSON Lines files too."""
    return next(filter(_takes_json_lines, streams), streams[0])


def _takes_json_lines(stream: Stream) -> bool:
    files = stream.files
    return files is not None and not files.patterns and files.format in (None, "jsonl")


def _check(what: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise Permanent(f"{what} is {value}", action=f"give a value {allowed}")
