"""Merging lake files: what is read stays the same, whoever writes, reads or dies meanwhile."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.errors import WriteConflict
from ingestion_platform.lake import merge as merge_module
from ingestion_platform.lake.land import write_sidecar
from ingestion_platform.lake.local import LocalStore
from ingestion_platform.lake.merge import Differing, Merged, Piece, closed, grouped, merge_closed
from ingestion_platform.lake.names import FILES, Name
from ingestion_platform.lake.records import decode, encode, read
from ingestion_platform.lake.segments import Segment, SegmentLog, SegmentLogBroken, Source
from ingestion_platform.lake.store import Store, open_store
from ingestion_platform.positions import Position
from ingestion_platform.settings import Settings
from services import Services
from tests.support.lake_files import DAY, put, records, segment_of

S3 = pytest.param("s3", marks=[pytest.mark.services])
NEXT = DAY + timedelta(days=1)
TODAY = DAY + timedelta(days=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty lake in a folder."""
    return LocalStore(tmp_path / "lake")


@pytest.fixture(params=["local", S3])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty lake, in a folder and on S3."""
    env = {"PLATFORM_HOME": str(tmp_path), "LAKE_URL": (tmp_path / "lake").as_uri()}
    if request.param == "s3":
        servers: Services = request.getfixturevalue("servers")
        env |= servers.env() | {"LAKE_URL": f"s3://bucket-0/{uuid.uuid4()}/lake"}
    return open_store(Settings.load(env, root=tmp_path))


def land(store: Store, segment: Segment) -> Segment:
    """A file as landing puts it, with its metadata; a record's value is its offset."""
    put(store, segment, [b"%d" % at for at in range(segment.start, segment.end)])
    data = store.read(segment.name.path)
    write_sidecar(store, segment, decode(data), data)
    return segment


def landed(
    store: Store, edges: Sequence[int], *, ingest_date: date = DAY, follow: bool = True, **how: Any
) -> list[Segment]:
    """Files between edges, each following the one ahead; then one of the next ingest date."""
    segments = []
    for start, end in pairwise(edges):
        previous = ("A", start) if start else None
        segments.append(
            land(
                store,
                segment_of("t", start, end, ingest_date=ingest_date, previous=previous, **how),
            )
        )
    if follow:
        end = edges[-1]
        last = segment_of(
            "t",
            end,
            end + 1,
            ingest_date=ingest_date + timedelta(days=1),
            previous=("A", end),
            **how,
        )
        land(store, last)
    return segments


def merge(store: Store, **how: Any) -> list[Merged]:
    """Merge what is closed today."""
    return merge_closed(store, "t", today=TODAY, **how)


def names(store: Store, ingest_date: date = DAY, partition: int = 0) -> list[tuple[int, int]]:
    """Start and end of the files of a slice, as their names tell them (end 0: not merged)."""
    found = SegmentLog(store, "t").names(ingest_date).get(partition, [])
    return [(name.start, name.end) for name in found]


def paths(store: Store) -> set[str]:
    """Every object of the lake."""
    return {entry.path for entry in store.files("")}


def reading(store: Store, position: tuple[str, int] | None = None) -> list[int]:
    """The offsets that a reader gets, which takes from each file what lies behind the one ahead;
    each has the value that it was landed with."""
    found: list[int] = []
    at = position[1] if position else 0
    behind = None if position is None else Position(*position)
    for segment in SegmentLog(store, "t").after(0, behind):
        table = read(store, segment)
        for offset, value in zip(
            table["offset"].to_pylist(), table["value"].to_pylist(), strict=True
        ):
            if offset >= at:
                assert value == b"%d" % offset
                found.append(offset)
        at = max(at, segment.end)
    return found


def test_small_files_become_one(lake: Store) -> None:
    """The records, their order and all columns stay; parts and their metadata are gone."""
    segments = landed(lake, [0, 3, 4, 10, 12])
    before = [read(lake, segment) for segment in segments]
    (merged,) = merge(lake)
    assert (merged.ingest_date, merged.partition) == (DAY, 0)
    assert (merged.files_before, merged.files_after) == (4, 1)
    assert merged.bytes_after < merged.bytes_before
    (segment,) = SegmentLog(lake, "t").slice(DAY, 0)
    assert segment == replace(segments[0], name=replace(segments[0].name, end=12), end=12, rows=12)
    assert read(lake, segment).to_pylist() == [row for part in before for row in part.to_pylist()]
    said = json.loads(lake.read(segment.name.sidecar))
    assert (said["record_count"], said["start"], said["end"]) == (12, 0, 12)
    assert said["file_size_bytes"] == len(lake.read(segment.name.path))
    last = segment_of("t", 12, 13, ingest_date=NEXT).name
    assert paths(lake) == {segment.name.path, segment.name.sidecar, last.path, last.sidecar}
    assert reading(lake) == list(range(13))


def test_what_is_merged_is_not_merged_again(lake: Store) -> None:
    """A second merge changes nothing, whatever it finds."""
    landed(lake, [0, 2, 4, 5, 11, 12, 14, 18])
    assert merge(lake, target_rows=6)
    before = {entry.path: entry.version for entry in lake.files("")}
    assert names(lake) == [(0, 5), (5, 0), (11, 14), (14, 0)]
    assert merge(lake, target_rows=6) == []
    assert {entry.path: entry.version for entry in lake.files("")} == before


def test_only_closed_ingest_dates_are_merged(store: Store) -> None:
    """An ingest date is closed for a log partition when it is over and a later one has a file of
    it."""
    for partition in (0, 1, 3, FILES):
        landed(store, [0, 1, 2], partition=partition, follow=False)
    for partition in (0, FILES):
        landed(store, [2, 3, 4], ingest_date=NEXT, partition=partition, follow=False)
    landed(store, [2, 3, 4], ingest_date=TODAY, partition=1, follow=False)
    landed(store, [4, 5, 6], ingest_date=TODAY, partition=0, follow=False)
    landed(store, [6, 7], ingest_date=TODAY + timedelta(days=1), partition=0, follow=False)
    segment_log = SegmentLog(store, "t")
    assert closed(segment_log, TODAY) == [(DAY, 0), (DAY, 1), (NEXT, 0)]
    assert closed(segment_log, NEXT) == [(DAY, 0), (DAY, 1)]
    assert closed(segment_log, TODAY, since=NEXT) == [(NEXT, 0)]
    assert closed(segment_log, DAY) == []
    assert [(m.ingest_date, m.partition) for m in merge(store)] == [(DAY, 0), (DAY, 1), (NEXT, 0)]
    assert names(store, DAY, FILES) == [(0, 0), (1, 0)]


def test_a_gap_stays_recorded(store: Store) -> None:
    """Nothing is merged across what retention took; offsets without records are counted on."""
    landed(store, [0, 2, 4], follow=False)
    land(store, segment_of("t", 9, 11, previous=("A", 4)))
    put(store, segment_of("t", 11, 15, previous=("A", 11), rows=2), [b"11", b"12"])
    land(store, segment_of("t", 15, 16, ingest_date=NEXT, previous=("A", 15)))
    gaps = sum(segment.gaps for segment in SegmentLog(store, "t").after(0, None))
    assert gaps == 7
    merge(store)
    assert names(store) == [(0, 4), (9, 15)]
    segments = SegmentLog(store, "t").after(0, None)
    assert sum(segment.gaps for segment in segments) == gaps
    assert (segments[1].gap_start, segments[1].gaps, segments[1].rows) == (4, 7, 4)
    assert SegmentLog(store, "t").after(0, Position("A", 4)) == segments[1:]


@pytest.mark.parametrize(
    "other", [{"topic_id": "B", "ordinal": 1}, {"topic_id": "B"}, {"ordinal": 1}]
)
def test_topic_ids_are_kept_apart(store: Store, other: dict[str, Any]) -> None:
    """A recreated topic's files are not put together with the old one's."""
    landed(store, [0, 1, 2], follow=False)
    topic_id = other.get("topic_id", "A")
    land(store, segment_of("t", 2, 3, previous=("A", 2), **other))
    land(store, segment_of("t", 3, 4, previous=(topic_id, 3), **other))
    land(store, segment_of("t", 4, 5, ingest_date=NEXT, previous=(topic_id, 4), **other))
    merge(store)
    assert names(store) == [(0, 2), (2, 4)]
    assert len(SegmentLog(store, "t").after(0, None)) == 3


def test_a_merged_file_has_its_size(store: Store) -> None:
    """Neither rows nor bytes beyond the target; what is larger already stays as it is."""
    landed(store, [0, 30, 31, 32, 33, 60, 61, 62])
    merge(store, target_rows=29)
    assert names(store) == [(0, 0), (30, 33), (33, 62)]
    assert reading(store) == list(range(63))


sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 400)), min_size=1, max_size=40)


@given(sizes, st.integers(1, 100), st.integers(1, 1000))
def test_groups_are_as_large_as_they_may_be(
    files: list[tuple[int, int]], rows: int, size: int
) -> None:
    """Within the limits, each file once, in order; no two neighbours could have been one."""
    pieces, at = [], 0
    for count, weight in files:
        pieces.append(Piece(segment_of("t", at, at + count), "", weight))
        at += count
    found = grouped(reversed(pieces), rows, size)
    assert [piece for group in found for piece in group.pieces] == pieces
    for group in found:
        assert len(group.pieces) == 1 or (group.rows <= rows and group.size <= size)
    for group, following in pairwise(found):
        assert group.rows + following.rows > rows or group.size + following.size > size


class Dies(BaseException):
    """The process ends here."""


@dataclass
class Mortal:
    """A store whose user dies at its n-th change; `changes` counts them."""

    inner: Store
    dies: int = 10**9
    changes: int = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in ("create", "write", "remove"):
            return method

        def call(*args: Any) -> Any:
            if self.changes >= self.dies:
                raise Dies
            self.changes += 1
            return method(*args)

        return call


def test_it_may_die_at_any_instant(lake: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record can be read once after each single change; the next merge ends the work."""
    monkeypatch.setattr(merge_module, "ThreadPoolExecutor", OneThread)
    edges = [0, 3, 4, 8, 9, 12]
    segments = landed(lake, edges)
    every = {path: lake.read(path) for path in paths(lake)}
    merge(lake)
    done, changes = paths(lake), 0
    while True:
        for path in paths(lake) - every.keys():
            lake.remove(path)
        for path, data in every.items():
            lake.write(path, data)
        mortal = Mortal(lake, dies=changes)
        try:
            merge(mortal)
        except Dies:
            changes += 1
        else:
            break
        assert reading(lake) == list(range(13))
        for at in edges:
            assert reading(lake, ("A", at)) == list(range(at, 13))
        assert sum(segment.rows for segment in SegmentLog(lake, "t").slice(DAY, 0)) == 12
        merge(lake)
        assert paths(lake) == done
    assert changes == 2 + 2 * len(segments)


STALE = [(3, 4), (3, 5), (3, 11), (3, 14), (4, 5), (9, 13), (0, 3), (0, 9), (0, 12), (0, 14)]


@pytest.mark.parametrize("start_end", STALE)
def test_a_writer_that_slept_does_no_harm(lake: Store, start_end: tuple[int, int]) -> None:
    """It finds a name free that merging removed, and cuts as it likes: readers take each record
    once, and the next merge makes one file of it again."""
    start, end = start_end
    landed(lake, [0, 3, 4, 8, 9, 12])
    merge(lake)
    land(lake, segment_of("t", start, end, previous=("A", start) if start else None))
    assert reading(lake) == list(range(max(13, end)))
    (merged,) = merge(lake)
    assert (merged.files_before, merged.files_after) == (2, 1)
    assert names(lake) == [(0, max(12, end))]
    assert merge(lake) == []
    # The lake's end is where it was; who goes on from there lands again what lies beyond.
    assert SegmentLog(lake, "t").tails([0])[0].end == 13
    land(lake, segment_of("t", 13, 20, ingest_date=NEXT, previous=("A", 13)))
    for at in range(21):
        assert reading(lake, ("A", at)) == list(range(at, 20))


def test_it_may_go_on_from_there(store: Store) -> None:
    """A writer that slept lands all it has in hand, beyond where the others have come, too."""
    landed(store, [0, 3, 6, 9])
    merge(store)
    for start, end in ((3, 7), (7, 12), (12, 14)):
        land(store, segment_of("t", start, end, previous=("A", start)))
        assert reading(store) == list(range(max(end, 10)))
    tail = SegmentLog(store, "t").tails([0])[0]
    assert (tail.end, tail.name.ingest_date) == (10, NEXT)
    land(store, segment_of("t", 10, 20, ingest_date=NEXT, previous=("A", 10)))
    assert reading(store) == list(range(20))
    for at in range(20):
        assert reading(store, ("A", at)) == list(range(at, 20))
    merge(store)
    assert names(store) == [(0, 14)]
    assert reading(store) == list(range(20))


def test_offsets_go_before_ingest_dates(store: Store) -> None:
    """What a late clock put into the ingest date before follows a file of the next one, if the file
    that it followed there is gone."""
    landed(store, [0, 3, 6], follow=False)
    land(store, segment_of("t", 6, 14, ingest_date=NEXT, previous=("A", 6)))
    late = [land(store, segment_of("t", at, at + 2, previous=("A", at))) for at in (6, 8, 10)]
    store.remove(late[0].name.path)
    assert reading(store) == list(range(14))
    merge(store)
    assert names(store) == [(0, 6), (8, 12)]
    for at in range(15):
        assert reading(store, ("A", at)) == list(range(at, 14))


def test_merges_of_other_sizes_agree(store: Store) -> None:
    """The smaller of two merged files gives way, never the larger one for it."""
    landed(store, [0, 3, 6, 9])
    rows = records([b"%d" % at for at in range(6)])
    small = segment_of("t", 0, 6)
    small = replace(small, name=replace(small.name, end=6))
    merge(store)
    assert store.create(small.name.path, encode(rows, small))  # one that slept
    assert reading(store) == list(range(10))
    merge(store)
    assert names(store) == [(0, 9)]
    merge(store, target_rows=3)
    assert names(store) == [(0, 9)]


def test_a_reader_of_what_was_merged_looks_again(store: Store) -> None:
    """Links of before tell that they moved, also when another file has the name by now; a segment
    log whose listing is old finds the merged file."""
    segments = landed(store, [0, 3, 6])
    old = SegmentLog(store, "t")
    assert [name.start for name in old.names(DAY)[0]] == [0, 3]
    merge(store)
    for segment in segments:
        with pytest.raises(WriteConflict, match="was merged into another file"):
            read(store, segment)
    assert [(k.start, k.end) for k in old.slice(DAY, 0)] == [(0, 6)]
    assert [(k.start, k.end) for k in old.after(0, None)] == [(0, 6), (6, 7)]
    land(store, segment_of("t", 3, 5, previous=("A", 3)))
    with pytest.raises(WriteConflict):
        read(store, segments[1])


def test_a_torn_listing_is_not_a_broken_segment_log(store: Store) -> None:
    """A listing that took longer than a merge misses the new file and some of the old ones."""
    landed(store, [0, 3, 6, 9])
    segment_log = SegmentLog(store, "t")
    merge(store)
    for torn in ([3], [3, 6], [6]):
        segment_log._names[DAY] = {0: [Name(0, start, DAY, 0, "t") for start in torn]}
        for start in torn:
            land(store, segment_of("t", start, start + 3, previous=("A", start)))
        assert segment_log.after(0, None)[0].end == 9
        merge(store)
    for name in SegmentLog(store, "t").names(DAY)[0]:
        store.remove(name.path)
    with pytest.raises(SegmentLogBroken, match="does not follow the start of the log"):
        segment_log.after(0, None)


def test_other_records_are_never_removed(store: Store) -> None:
    """A merged file that lacks what another has at its offsets is told of, and both stay; the
    other slices are merged."""
    landed(store, [0, 3, 6])
    merge(store)
    landed(store, [0, 3, 6], partition=1)
    segment = segment_of("t", 3, 6, previous=("A", 3))
    put(store, segment, [b"3", b"other", b"5"])
    with pytest.raises(Differing, match=r"does not have the records of .*0003\.parquet"):
        merge(store)
    assert names(store) == [(0, 6), (3, 0)]
    assert names(store, DAY, 1) == [(0, 6)]
    store.remove(segment.name.path)
    assert merge(store) == []


@dataclass
class Overtaken:
    """A store on which somebody else does something as soon as a merged file is there."""

    inner: Store
    act: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create(self, path: str, data: bytes) -> bool:
        """As always; then the other one's turn comes."""
        created = self.inner.create(path, data)
        self.act()
        return created


def test_only_what_was_read_is_removed(store: Store) -> None:
    """Another merge removed a file and a writer that slept took its name, before this merge came
    to remove it: what is there now was never merged."""
    segments = landed(store, [0, 3, 6])
    other = segment_of("t", 3, 11, previous=("A", 3))

    def overtake() -> None:
        store.remove(segments[1].name.path)
        land(store, other)

    (merged,) = merge_closed(Overtaken(store, overtake), "t", today=TODAY)
    assert (merged.files_before, merged.files_after) == (2, 2)
    assert names(store) == [(0, 6), (3, 0)]
    assert SegmentLog(store, "t").slice(DAY, 0)[-1] == other
    merge(store)
    assert names(store) == [(0, 11)]
    assert reading(store) == list(range(11))


def test_metadata_follow_their_files(store: Store) -> None:
    """What a dead merge did not write is written; what a sleeping writer wrote too late goes."""
    segments = landed(store, [0, 3, 6])
    merge(store)
    merged = SegmentLog(store, "t").slice(DAY, 0)[0].name
    store.remove(merged.sidecar)
    store.write(segments[1].name.sidecar, b"{}")
    land(store, segments[0])
    merge(store)
    last = segment_of("t", 6, 7, ingest_date=NEXT).name
    assert paths(store) == {merged.path, merged.sidecar, last.path, last.sidecar}


def test_a_dropped_files_parts_are_left_alone(store: Store) -> None:
    """They are found by their names, and tell of the file that they came in."""
    source = Source("x.csv", "0" * 64, 0, 4, "csv", "text")
    for start in (0, 2):
        land(store, replace(segment_of("t", start, start + 2, partition=FILES), file=source))
    land(store, segment_of("t", 4, 5, partition=FILES, ingest_date=NEXT, previous=("A", 4)))
    assert merge(store) == []


# Everything at once: each operation on the store is a step, and anybody may go next, or die.


class Killed(BaseException):
    """The actor is dead."""


class OneThread(nullcontext[None]):
    """In place of a pool: an actor does one thing at a time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __enter__(self) -> Any:
        return self

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """One after the other."""
        return map(function, items)


class Actor(threading.Thread):
    """Somebody at work, who does one operation on the store per `step`, and dies when told."""

    def __init__(self, work: Callable[[Store], None], store: Store) -> None:
        super().__init__(daemon=True)
        self._work, self._store = work, Stepped(store, self)
        self._ready, self._go = threading.Event(), threading.Semaphore(0)
        self.dead = self.ended = False
        self.error: BaseException | None = None
        self.start()
        self._ready.wait()

    def run(self) -> None:
        """Work until the end, or death."""
        try:
            self._work(self._store)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self._ready.set()

    def gate(self) -> None:
        """Wait for the next step."""
        if not self.dead:
            self._ready.set()
            self._go.acquire()
        if self.dead:
            raise Killed

    def step(self) -> None:
        """Let it do its next operation."""
        if not self.ended:
            self._ready.clear()
            self._go.release()
            self._ready.wait()

    def finish(self) -> None:
        """Let it work to its end."""
        while not self.ended:
            self.step()

    def kill(self) -> None:
        """It does nothing any more."""
        self.dead = True
        self.finish()


@dataclass
class Stepped:
    """A store whose operations are steps of an actor; of a listing, each page."""

    inner: Store
    actor: Actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        def call(*args: Any) -> Any:
            self.actor.gate()
            return method(*args)

        return call

    def files(self, prefix: str) -> Iterator[Any]:
        """As a store of many objects lists them: page by page, in the order of their names."""
        behind = ""
        while True:
            self.actor.gate()
            entries = sorted(self.inner.files(prefix), key=lambda entry: entry.path)
            page = [entry for entry in entries if entry.path > behind][:3]
            if not page:
                return
            yield from page
            behind = page[-1].path


LOG, CLOSING = 18, 12  # offsets of the log, and those of them that are of the first ingest date


@dataclass
class Writer:
    """Lands the log from where the lake ends, in files of some size; a clock that is late knows
    the first ingest date only."""

    size: int
    late: bool = False
    end: int = LOG

    def __call__(self, store: Store) -> None:
        tail = SegmentLog(store, "t").tails([0]).get(0)
        at = 0 if tail is None else tail.end
        floor = DAY if tail is None else tail.name.ingest_date
        while at < self.end:
            ingest_date = max(floor, DAY if self.late or at < CLOSING else NEXT)
            end = min(at + self.size, self.end)
            if not self.late and at < CLOSING:
                end = min(end, CLOSING)
            segment = segment_of(
                "t", at, end, ingest_date=ingest_date, previous=("A", at) if at else None
            )
            table = records([b"%d" % n for n in range(at, end)], start=at)
            data = encode(table, segment)
            if not store.create(segment.name.path, data):
                return
            write_sidecar(store, segment, table, data)
            at, floor = end, ingest_date


@dataclass
class Bronze:
    """A table: offsets and how far it is, changed together."""

    rows: list[int] = field(default_factory=list)
    at: int = 0

    def __call__(self, store: Store) -> None:
        """Load until there is nothing more."""
        while True:
            start = self.at
            try:
                segments = SegmentLog(store, "t").after(0, Position("A", start))
                if not segments:
                    return
                for segment in segments:
                    if segment.end <= start:
                        continue
                    offsets = read(store, segment)["offset"].to_pylist()
                    if self.at != start:
                        raise WriteConflict("another loader")
                    self.rows += [at for at in offsets if at >= start]
                    self.at = start = segment.end
            except WriteConflict:
                continue


def scan(store: Store) -> None:
    """Read all there is, as verification does."""
    while True:
        try:
            found = reading(store)
        except WriteConflict:
            continue
        assert found == list(range(len(found)))
        return


def merger(rows: int) -> Callable[[Store], None]:
    """Merges into files of a size."""
    return lambda store: void(merge(store, target_rows=rows))


def void(_: object) -> None:
    """Nothing."""


@st.composite
def plays(draw: st.DrawFn) -> tuple[list[Any], list[tuple[int, int]], set[int]]:
    """Who is there, who goes on by how many steps, and who dies in the end."""
    who = [
        ("writer", draw(st.integers(1, 5)), draw(st.booleans())),
        ("writer", draw(st.integers(1, 5)), draw(st.booleans())),
        *(("merger", draw(st.sampled_from([3, 5, 100])), False) for _ in range(2)),
        ("loader", 0, False),
        ("loader", 0, False),
        ("scan", 0, False),
    ]
    turns = st.tuples(st.integers(0, len(who) - 1), st.integers(1, 40))
    return who, draw(st.lists(turns, max_size=25)), draw(st.sets(st.integers(0, len(who) - 1)))


@pytest.mark.slow
@pytest.mark.parametrize("first", [4, CLOSING])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(play=plays())
def test_any_play_leaves_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, first: int, play: Any
) -> None:
    """Writers awake and asleep, merges, loads and scans, step by step in any order, any of them
    killed: no segment log breaks, and every record is read once, then and in the end."""
    monkeypatch.setattr(merge_module, "ThreadPoolExecutor", OneThread)
    store = LocalStore(tmp_path_factory.mktemp("lake"))
    who, turns, dying = play
    bronze = Bronze()
    makers = {
        "writer": lambda size, late: Writer(size, late),
        "merger": lambda size, _: merger(size),
        "loader": lambda *_: bronze,
        "scan": lambda *_: scan,
    }
    Writer(1, end=first)(store)
    actors = [Actor(makers[kind](size, late), store) for kind, size, late in who]
    for index in (0, 1):  # they know where the lake ends, and have all the rest in their hands
        for _ in range(6):
            actors[index].step()
    Writer(2)(store)
    for index, steps in turns:
        for _ in range(steps):
            actors[index].step()
    for index, actor in enumerate(actors):
        (actor.kill if index in dying else actor.finish)()
    for actor in actors:
        if actor.error is not None:
            raise actor.error
    Writer(2)(store)
    for _ in range(3):
        assert reading(store) == list(range(LOG))
        merge(store)
    assert merge(store) == []
    bronze(store)
    assert bronze.rows == list(range(LOG))
