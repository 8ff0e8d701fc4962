"""The file source of a stream: files from its drop zone, or from a hand, into the lake, once.

A file is copied, read to its end, archived, claimed and landed, in this order, and only then
removed from the zone: so whatever dies, the next run has the content and knows how far it came.
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
    """A file was landed in part, and neither its archived copy nor the file itself is there."""

    def __init__(self, claim: Claim, done: int, archive: str) -> None:
        super().__init__(
            f"{claim.name} is landed up to record {done:,} of {claim.rows:,}, and its copy "
            f"{archive} is gone; files behind it wait",
            action="restore that copy, or hand the same file in again",
        )


class FilesRefused(Permanent):
    """Files of a drop zone could not be taken; they were moved aside, the others landed."""

    def __init__(self, refused: list[Handled]) -> None:
        reasons = "; ".join(f"{each.name}: {each.detail}" for each in refused[:_TOLD])
        more = f"; and {len(refused) - _TOLD:,} more" if len(refused) > _TOLD else ""
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
    """What became of a file: landed, a copy of one landed before, empty, still changing, waiting
    until there is room for it, or refused.

    `kept` is where the original is now, empty where it was, `claim` its place in the lake.
    """

    name: str
    outcome: Literal["landed", "copy", "empty", "changing", "waiting", "refused"]
    rows: int = 0
    detail: str = ""
    kept: str = ""
    claim: Claim | None = None


Note = Callable[[Handled], None]

STRANGE = 1000
"""Entries that a run moves aside because they are no files; the next one goes on."""
FAILURES = 3
"""Files that a run fails to read before it takes their store for unavailable."""
_TOLD = 5  # refused files that an error names


class FileLanding:
    """One stream's file source; any number may be at work on it at once."""

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
        """Whether no file waits and none was ever landed."""
        return not self.zone.waiting() and Journal(self._lake, self._topic).last() is None

    def land_waiting(self, settle: float, note: Note) -> Iterator[Landed]:
        """Land the files of the zone that did not change for `settle` seconds, oldest first.

        A file that cannot be taken or parsed is moved aside with the reason, and noted; one that
        has no room, or whose store does not answer for it, waits. No file keeps others from being
        landed.

        Raises:
            PositionMoved: another writer was quicker; start again.
            HalfLanded: a file cannot be ended; those of the zone wait.
            StoreUnavailable: a store does not answer, or some files wait and the others are landed.
        """
        arrivals = self.zone.settled(settle)
        self.zone.forget_gone()
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
        """Land a file by hand; it stays where it is. `on_read` is told how many records were read.

        With `again`, a content that was landed under another name is landed once more under this
        one, and once only, however often this is called.

        Raises:
            UnreadableFile: there is no such file, or it cannot be parsed.
            PositionMoved, HalfLanded, StoreUnavailable: as `land_waiting`.
        """
        with Spool(self._spool) as spool:
            copied = copy_file(file, spool, self._limits)
            self._format_of(copied)  # an unknown one stops nobody's landing
            broken = yield from self._finish(spool)
            yield from self._land(copied, spool, note, broken, on_read, again=again)

    @contextmanager
    def reading(self, file: Path) -> Iterator[Content]:
        """A file to be read only.

        Raises:
            UnreadableFile: there is no such file, or it cannot be decompressed.
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
        """Land a file of the zone; its own faults are noted, and affect no other file."""
        taken = arrival
        try:
            check_size(arrival.name, arrival.entry.size, self._limits)
            taken = self.zone.take(arrival)
            copied = self._copied(taken, spool)
        except FileNotFoundError:
            return  # another run has dealt with it
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
            return  # it waits for the one ahead
        self.zone.remove(taken)

    def _copied(self, taken: Arrival, spool: Spool) -> Copied | None:
        """A copy of a file of the zone; None when it grows meanwhile."""
        size = taken.entry.size
        spool.need(size)

        def chunks() -> Iterator[bytes]:
            left = size
            for chunk in self.zone.chunks(taken):
                left -= len(chunk)
                yield chunk
                if left < 0:  # whoever writes on must not keep this from ending
                    return

        copied = copy_in(taken.name, chunks(), spool, self._limits)
        return copied if copied.size == size else None

    def _set_aside(self, arrival: Arrival, problem: str, note: Note) -> None:
        kept = self.zone.set_aside(arrival, problem)
        said = problem if kept else f"{problem}; it cannot be moved, and is skipped"
        note(Handled(arrival.name, "refused", detail=said, kept=kept))

    def _delay(
        self,
        arrival: Arrival,
        error: StoreUnavailable,
        delayed: list[StoreUnavailable],
        note: Note,
    ) -> None:
        """Leave a file for a later run, and go on with others unless none seems to succeed."""
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
        """Land a content, unless it is landed."""
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
            raise WriteConflict(f"{claim.name} has the same content, and was claimed meanwhile")
        done = landed_end(self._lake, self._topic, claim)
        yield from land_claimed(self._lake, self._topic, claim, content)
        if not new and done == claim.end:
            journal.remember_copy(copied.name, claim)
            note(
                Handled(copied.name, "copy", detail=_copy_of(claim, again), kept=kept, claim=claim)
            )
            return
        said = ""
        if new and earlier is not None:
            said = f"another content of this name was landed on {earlier.time:%Y-%m-%d %H:%M} UTC"
        note(Handled(copied.name, "landed", rows, said, kept, claim))

    def _key(self, journal: Journal, copied: Copied) -> str:
        """The key of a content that is to be landed again, unless this very name has it."""
        if (last := journal.last()) is not None:
            journal.make_findable(last)
        first = journal.by_key(copied.sha256)
        if first is None or first.name == copied.name:
            return copied.sha256
        return key_again(copied.sha256, copied.name)

    def _finish(self, spool: Spool) -> Generator[Landed, None, HalfLanded | None]:
        """End a file that another writer left half landed, from its archived copy; gives the
        reason if it cannot be ended."""
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
    """A copy of a claimed file, read as it was when it was claimed: without limits, too."""
    named = replace(copied, name=claim.name)
    format_ = Format(claim.kind, claim.compression, claim.dialect)
    return open_copy(named, format_, spool)


def _copy_of(claim: Claim, again: bool) -> str:
    said = (
        f"it landed nothing, because its content was landed as {claim.name} on "
        f"{claim.time:%Y-%m-%d %H:%M:%S} UTC; "
    )
    if again:
        return f"{said}to land it once more, give it another name"
    return f"{said}`ingest load STREAM FILE --again` lands it on purpose"
