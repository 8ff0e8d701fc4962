"""Read JSON Lines files in folders by type and label, as one mixed sequence of records.

The files are `<folder>/<type>/<label>/*.jsonl`. The contracts of the streams have the types, the
labels, and the field that identifies a record.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from ingestion_platform.errors import Permanent
from ingestion_platform.produce.keys import KeyOf, key_of
from ingestion_platform.produce.record import Record
from ingestion_platform.streams import Stream

TYPE, LABEL = "data_type", "data_label"
"""Fields whose allowed values in the contract are the names of folders; later labels supersede
earlier ones."""
SOURCE, RUN, TIME = "source_file", "ingestion_id", "timestamp"
ID = "id"
"""The field that identifies a record in the files, if they lack the contract's primary key."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a record, and the reason."""

    file: Path
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.reason}"


class _Source(NamedTuple):
    """A file, and what its folder and stream say of its records."""

    file: Path
    name: str  # below the folder, with / on every machine
    kind: str
    label: str
    id_field: str
    topic: str
    key: KeyOf


class _Line(NamedTuple):
    """The place of a record, whose bytes are read again when it is sent."""

    source: _Source
    number: int
    offset: int
    size: int
    identity: int | str


@dataclass(frozen=True)
class LabelledRecords:
    """The records of a folder, and the lines that are no records."""

    lines: Sequence[_Line]
    bad: Sequence[BadLine]
    _run: str = field(default_factory=lambda: str(uuid.uuid4()))

    def records(self, seed: int) -> Iterator[Record]:
        """Yield all records in an order by the seed, each cleaned and enriched when it is taken.

        Types, labels and files are mixed at random, but versions of one record stay in the order
        of their labels, files and lines: no change comes before the version that it changes.

        Raises:
            Permanent: a file was changed meanwhile.
        """
        last = datetime.min.replace(tzinfo=UTC)
        for line in _mixed(self.lines, seed):
            # Strictly increasing, so that one version is the latest.
            last = max(datetime.now(UTC), last + timedelta(microseconds=1))
            yield _record(line, _read(line), self._run, last)


def find(folder: Path, streams: Sequence[Stream]) -> LabelledRecords:
    """Scan the files of the streams for records.

    Raises:
        Permanent: a stream's contract has no type, labels or primary key; the folder or its files
            are missing; a folder's name is no label.
    """
    if not folder.is_dir():
        raise Permanent(f"{folder} is not a folder", action="give the parent of the types' folders")
    sources = [source for stream in streams for source in _sources(folder, stream)]
    if not sources:
        places = ", ".join(f"{_folder(stream)}/<label>/*.jsonl" for stream in streams)
        raise Permanent(f"no files in {folder}", action=f"put them at {places} below it")
    lines: list[_Line] = []
    bad: list[BadLine] = []
    for source in sources:
        for line in _scan(source):
            if isinstance(line, BadLine):
                bad.append(line)
            else:
                lines.append(line)
    return LabelledRecords(lines, bad)


def clean(value: Any) -> Any:
    """Return a JSON value with all strings stripped, and null for empty ones, at any depth."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, dict):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value


def _sources(folder: Path, stream: Stream) -> Iterator[_Source]:
    """Yield the files of a stream, by label, then by name."""
    contract, kind = stream.contract, _folder(stream)
    labels = contract.column(LABEL).allowed
    present = {file.parent.name for file in (folder / kind).glob("*/*.jsonl")}
    if unknown := sorted(present - set(labels)):
        raise Permanent(
            f"{folder / kind / unknown[0]}: {unknown[0]!r} is not a label of {stream.name}",
            action=f"use one of: {', '.join(labels)}",
        )
    key = key_of(stream)
    for label in labels:
        for file in sorted((folder / kind / label).glob("*.jsonl")):
            name = file.relative_to(folder).as_posix()
            yield _Source(file, name, kind, label, contract.primary_key[0], stream.topic, key)


def _folder(stream: Stream) -> str:
    """Return the folder of a stream's type.

    Raises:
        Permanent: the contract has no such fields.
    """
    fields = {f.name: f for f in stream.contract.fields}
    kind, label = fields.get(TYPE), fields.get(LABEL)
    usable = kind and len(kind.allowed) == 1 and label and label.allowed
    if not usable or len(stream.contract.primary_key) != 1:
        raise Permanent(
            f"the contract of {stream.name} has no types and labels for folders of files",
            action=f"give its contract one {TYPE}, some {LABEL}s and a primaryKey, or use --count",
        )
    assert kind is not None
    return str(kind.allowed[0])


def _scan(source: _Source) -> Iterator[_Line | BadLine]:
    offset = 0
    with source.file.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                # Empty lines are skipped.
                if text.strip() and text.strip() != _BOM:
                    identity = _identity(_fields(text), source.id_field)
                    yield _Line(source, number, offset, len(text), identity)
            except ValueError as error:
                yield BadLine(source.file, number, str(error))
            offset += len(text)


def _fields(text: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text.removeprefix(_BOM))
    except (ValueError, RecursionError) as error:  # ill-formed UTF-8 is a ValueError too
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _identity(fields: dict[str, Any], name: str) -> int | str:
    value: object = clean(fields.get(name, fields.get(ID)))
    if isinstance(value, bool) or not isinstance(value, int | str):
        problem = "is missing" if value is None else "is not a number or text"
        raise ValueError(f"{name} (or {ID}) {problem}")
    return value


def _mixed(lines: Sequence[_Line], seed: int) -> Iterator[_Line]:
    """Yield the lines in random order, those of one identity in the given order."""
    versions: dict[tuple[str, str], list[_Line]] = defaultdict(list)
    turns = []
    for line in lines:
        turn = (line.source.kind, str(line.identity))
        versions[turn].append(line)
        turns.append(turn)
    Random(seed).shuffle(turns)
    following = {turn: iter(queue) for turn, queue in versions.items()}
    for turn in turns:
        yield next(following[turn])


def _read(line: _Line) -> dict[str, Any]:
    try:
        with line.source.file.open("rb") as file:
            file.seek(line.offset)
            fields = _fields(file.read(line.size))
        if _identity(fields, line.source.id_field) == line.identity:
            return fields
    except (OSError, ValueError):
        pass  # it was readable before
    raise Permanent(
        f"{line.source.file}:{line.number}: was changed while it was read", action="run again"
    )


def _record(line: _Line, fields: dict[str, Any], run: str, time: datetime) -> Record:
    source = line.source
    enriched = clean(fields) | {
        source.id_field: line.identity,
        TYPE: source.kind,
        LABEL: source.label,
        SOURCE: source.name,
        RUN: run,
        TIME: time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    value = msgspec.json.encode(enriched)
    return Record(source.key(value), value, topic=source.topic)
