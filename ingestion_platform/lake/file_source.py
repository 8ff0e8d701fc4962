"""The file source of a stream: lands files of its drop zone, or local files, exactly once.

A file is copied, read completely, archived, claimed and landed, in this order, and only then
removed from the zone. After a crash the next run has the content and knows how much is landed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ingestion_platform.errors import Permanent, StoreUnavailable, WriteConflict
from ingestion_platform.files.formats import (
    BeyondLimit,
    Content,
    Copied,
    Format,
    check_size,
    copy_file,
    copy_in,
    format_of,
    open_copy,
)
from ingestion_platform.files.reading import UnreadableFile
from ingestion_platform.files.spool import NoRoom, Spool
from ingestion_platform.lake.drop import Arrival, DropZone
from ingestion_platform.lake.guarded import Busy, Unfit
from ingestion_platform.lake.journal import Claim, Journal, key_again
from ingestion_platform.lake.land import Landed
from ingestion_platform.lake.land_files import claim_place, land_claimed, landed_end, unfinished
from ingestion_platform.lake.store import Store
from ingestion_platform.settings import FileLimits
from ingestion_platform.streams import Stream


class HalfLanded(Permanent):
    """A file is landed in part, and its archived copy is gone."""

    def __init__(self, claim: Claim, done: int, archive: str) -> None:
        super().__init__(
            f"{claim.name} is landed up to record {done:,} of {claim.rows:,}, and its copy "
            f"{archive} is gone; later files wait",
            action="restore that copy, or drop the same file again",
        )


class FilesRefused(Permanent):
    """Files of a drop zone were refused and moved to `_refused`; the others are landed."""

    def __init__(self, refused: list[Handled]) -> None:
        reasons = "; ".join(f"{each.name}: {each.detail}" for each in refused[:_SHOWN])
        more = f"; and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
        kept = next((each.kept for each in refused if each.kept), "")
        action = f"correct them and drop them again; they are kept as {kept}"
        if not kept:
            action = "remove them: they cannot be moved, and are skipped from now on"
        super().__init__(
            f"{len(refused):,} files were refused, and nothing of them was landed: {reasons}{more}",
            action=action,
        )


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of a file.

    `outcome` is landed, copy (of a content landed before), empty, changing (still being written),
    waiting (for room or its store) or refused. `kept` is the path of the original now, empty if it
    was not moved; `claim` has its offsets in the lake.
    """

    name: str
    outcome: Literal["landed", "copy", "empty", "changing", "waiting", "refused"]
    rows: int = 0
    detail: str = ""
    kept: str = ""
    claim: Claim | None = None


Note = Callable[[Handled], None]

STRANGE = 1000
"""Entries that are not files which one run moves to `_refused`; the next run continues."""
FAILURES = 3
"""Failed reads after which a run treats the store as unavailable."""
_SHOWN = 5  # refused files that an error names


class FileLanding:
    """One stream's file source; any number of processes may use it at once."""

    def __init__(
        self, lake: Store, drop: Store, stream: Stream, spool: Path, limits: FileLimits
    ) -> None:
        file_source = stream.file_source
        self.zone = DropZone(drop, file_source)
        self._limits = (
            limits
            if file_source.max_size is None
            else limits.replace(max_size=file_source.max_size)
        )
        self._lake = lake
        self._stream = stream
        self._topic = stream.topic
        self._spool = spool

    def idle(self) -> bool:
        """Return whether no file waits and none was ever landed."""
        return not self.zone.waiting() and Journal(self._lake, self._topic).last() is None

    def land_waiting(self, settle: float, note: Note) -> Iterator[Landed]:
        """Land the files of the zone that did not change for `settle` seconds, oldest first.

        A file that cannot be taken or parsed is moved to `_refused` with the reason. A file for
        which there is no room, or whose store does not answer, waits. No file blocks others. `note`
        is called with what became of each file.

        Raises:
            WriteConflict: another writer claimed the same offsets; start again.
            HalfLanded: a half landed file cannot be finished; the files of the zone wait.
            StoreUnavailable: a store does not answer, or some files wait and the others are landed.
        """
        arrivals = self.zone.settled(settle)
        self.zone.clean_skips()
        if not arrivals and unfinished(self._lake, self._topic) is None:
            return
        for arrival in [each for each in arrivals if each.own]:
            self._set_aside(arrival, arrival.problem, note)
        delayed: list[StoreUnavailable] = []
        with Spool(self._spool) as spool:
            broken = yield from self._finish(spool)
            for arrival in [each for each in arrivals if not each.problem]:
                yield from self._land_arrival(arrival, spool, note, broken, delayed)
                spool.clear()
        strange = [each for each in arrivals if each.problem and not each.own]
        for arrival in strange[:STRANGE]:
            self._set_aside(arrival, arrival.problem, note)
        if broken is not None and unfinished(self._lake, self._topic) is not None:
            raise broken
        if delayed:
            raise delayed[0]

    def land_file(
        self,
        file: Path,
        note: Note,
        on_read: Callable[[int], None] = lambda _: None,
        *,
        again: bool = False,
    ) -> Iterator[Landed]:
        """Land a local file without moving it; call `on_read` with the number of records read.

        With `again`, a content that was landed under another name is landed again under this name,
        once, however often this is called.

        Raises:
            UnreadableFile: the file does not exist or cannot be parsed.
            WriteConflict, HalfLanded, StoreUnavailable: see `land_waiting`.
        """
        with Spool(self._spool) as spool:
            copied = copy_file(file, spool, self._limits)
            self._format_of(copied)  # fail on an unknown format before anything else
            broken = yield from self._finish(spool)
            yield from self._land(copied, spool, note, broken, on_read, again=again)

    @contextmanager
    def reading(self, file: Path) -> Iterator[Content]:
        """Open a local file for reading only.

        Raises:
            UnreadableFile: the file does not exist or cannot be decompressed.
        """
        with Spool(self._spool) as spool:
            yield self._opened(copy_file(file, spool, self._limits), spool)

    def _opened(self, copied: Copied, spool: Spool) -> Content:
        return open_copy(copied, self._format_of(copied), spool, self._limits)

    def _format_of(self, copied: Copied) -> Format:
        file_source = self._stream.file_source
        return format_of(copied.name, file_source.format, file_source.csv)

    def _land_arrival(
        self,
        arrival: Arrival,
        spool: Spool,
        note: Note,
        broken: HalfLanded | None,
        delayed: list[StoreUnavailable],
    ) -> Iterator[Landed]:
        """Land a file of the zone; its errors are reported to `note` and affect no other file."""
        taken = arrival
        try:
            check_size(arrival.name, arrival.entry.size, self._limits)
            taken = self.zone.take(arrival)
            copied = self._copied(taken, spool)
        except FileNotFoundError:
            return  # another run has processed it
        except Busy:
            copied = None
        except (Unfit, BeyondLimit) as error:
            self._set_aside(taken, error.problem, note)
            return
        except StoreUnavailable as error:
            self._delay(taken, error, delayed, note)
            return
        if copied is None or not self.zone.unchanged(taken):
            note(Handled(taken.name, "changing", detail="it is still being written: it waits"))
            return
        try:
            yield from self._land(copied, spool, note, broken)
        except UnreadableFile as error:
            kept = self.zone.refuse(copied, error.message)
            note(Handled(taken.name, "refused", detail=error.problem, kept=kept))
        except NoRoom as error:
            self._delay(taken, error, delayed, note)
            return
        except HalfLanded:
            return  # the half landed file must be finished first
        self.zone.remove(taken)

    def _copied(self, taken: Arrival, spool: Spool) -> Copied | None:
        """Copy a file of the zone; return None when its size changes meanwhile."""
        size = taken.entry.size
        spool.need(size)

        def chunks() -> Iterator[bytes]:
            remaining = size
            for chunk in self.zone.chunks(taken):
                remaining -= len(chunk)
                yield chunk
                if remaining < 0:  # a writer that keeps appending must not keep this loop running
                    return

        copied = copy_in(taken.name, chunks(), spool, self._limits)
        return copied if copied.size == size else None

    def _set_aside(self, arrival: Arrival, problem: str, note: Note) -> None:
        kept = self.zone.set_aside(arrival, problem)
        detail = problem if kept else f"{problem}; it cannot be moved, and is skipped"
        note(Handled(arrival.name, "refused", detail=detail, kept=kept))

    def _delay(
        self,
        arrival: Arrival,
        error: StoreUnavailable,
        delayed: list[StoreUnavailable],
        note: Note,
    ) -> None:
        """Leave a file to a later run; raise the error once FAILURES files could not be read."""
        note(Handled(arrival.name, "waiting", detail=error.message))
        delayed.append(error)
        if len([each for each in delayed if not isinstance(each, NoRoom)]) >= FAILURES:
            raise error

    def _land(
        self,
        copied: Copied,
        spool: Spool,
        note: Note,
        broken: HalfLanded | None,
        on_read: Callable[[int], None] = lambda _: None,
        *,
        again: bool = False,
    ) -> Iterator[Landed]:
        """Land a content unless it is landed already."""
        journal = Journal(self._lake, self._topic)
        key = self._key(journal, copied) if again else copied.sha256
        known = journal.by_key(key)
        if broken is not None and known is None:
            raise broken
        if known is None:
            content = self._opened(copied, spool)
            rows = content.count(self._stream.contract, on_read)
        else:
            content, rows = _claimed(copied, known, spool), known.rows
        kept = self.zone.archive(copied)
        if rows == 0:
            note(Handled(copied.name, "empty", detail="it has no records", kept=kept))
            return
        earlier = journal.by_name(copied.name)
        claim, new = claim_place(self._lake, self._topic, content, rows, kept, key)
        if not new and known is None:
            raise WriteConflict(f"{claim.name} has the same content and was claimed meanwhile")
        done = landed_end(self._lake, self._topic, claim)
        yield from land_claimed(self._lake, self._topic, claim, content)
        if not new and done == claim.end:
            journal.record_copy(copied.name, claim)
            note(
                Handled(copied.name, "copy", detail=_copy_of(claim, again), kept=kept, claim=claim)
            )
            return
        detail = ""
        if new and earlier is not None:
            detail = f"another content of this name was landed on {earlier.time:%Y-%m-%d %H:%M} UTC"
        note(Handled(copied.name, "landed", rows, detail, kept, claim))

    def _key(self, journal: Journal, copied: Copied) -> str:
        """Return the key for landing a content again; its own key if no other name has it."""
        if (last := journal.last()) is not None:
            journal.make_findable(last)
        first = journal.by_key(copied.sha256)
        if first is None or first.name == copied.name:
            return copied.sha256
        return key_again(copied.sha256, copied.name)

    def _finish(self, spool: Spool) -> Generator[Landed, None, HalfLanded | None]:
        """Finish a file that another writer left half landed, from its archived copy.

        Return the error if it cannot be finished.
        """
        claim = unfinished(self._lake, self._topic)
        if claim is None:
            return None
        drop = self.zone.store
        try:
            copied = copy_in(claim.name, drop.chunks(claim.archive), spool)
        except (FileNotFoundError, Unfit):
            copied = None
        if copied is None or copied.sha256 != claim.sha256:
            done = landed_end(self._lake, self._topic, claim) - claim.start
            return HalfLanded(claim, done, f"{drop.url}/{claim.archive}")
        content = _claimed(copied, claim, spool)
        yield from land_claimed(self._lake, self._topic, claim, content)
        return None


def _claimed(copied: Copied, claim: Claim, spool: Spool) -> Content:
    """Open a copy of a claimed file in the format of the claim, without limits."""
    named = replace(copied, name=claim.name)
    format_ = Format(claim.kind, claim.compression, claim.dialect)
    return open_copy(named, format_, spool)


def _copy_of(claim: Claim, again: bool) -> str:
    text = (
        f"it landed nothing, because its content was landed as {claim.name} on "
        f"{claim.time:%Y-%m-%d %H:%M:%S} UTC; "
    )
    if again:
        return f"{text}to land it again, give it another name"
    return f"{text}`ingest load STREAM FILE --again` lands it on purpose"
