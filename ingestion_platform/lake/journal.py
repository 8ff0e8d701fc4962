"""The journal of a stream's files: which content has which offsets of the log partition FILES.

A file's place is claimed before its first record is landed, under a name that tells the start
only, so that of two files one gets it. What a claim says is all that landing depends on: anyone
who has the content can go on where a dead writer stopped.

    topic=<topic>/_files/claims/<start offset>.json
    topic=<topic>/_files/contents/<sha256>.json      (the same, to be found by content)
    topic=<topic>/_files/names/<digest>.json         (the last content of a name)
    topic=<topic>/_files/copies.json                 (the last file that landed nothing, as a copy)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime

from ingestion_platform.dialect import PLAIN, Dialect
from ingestion_platform.lake.names import FILES, Name, files_folder
from ingestion_platform.lake.store import Store


@dataclass(frozen=True, slots=True)
class Claim:
    """A file's place: its records are the offsets `start` to before `end` of a topic id.

    All of them are of one ingest date and one instant; `archive` is the original's path below
    DROP_URL. A `key` is claimed once: it is `sha256`, but where somebody had the content landed
    again under another name.
    """

    topic_id: str
    start: int
    end: int
    ingest_date: date
    time: datetime
    name: str
    sha256: str
    size: int
    kind: str
    compression: str | None
    archive: str
    key: str
    dialect: Dialect = PLAIN

    @property
    def rows(self) -> int:
        """How many records the file has."""
        return self.end - self.start

    def part(self, topic: str, start: int) -> Name:
        """The name of the lake file that holds the records from `start` on."""
        return Name(
            ordinal=0, start=start, ingest_date=self.ingest_date, partition=FILES, topic=topic
        )

    def to_json(self) -> bytes:
        """The text that is kept in the lake."""
        said = asdict(self) | {
            "ingest_date": self.ingest_date.isoformat(),
            "time": self.time.isoformat(),
        }
        said["dialect"] = self.dialect.to_json()
        return json.dumps(said, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Claim:
        """A claim from the text that is kept in the lake."""
        said = json.loads(text)
        said["ingest_date"] = date.fromisoformat(said["ingest_date"])
        said["time"] = datetime.fromisoformat(said["time"]).astimezone(UTC)
        said["dialect"] = Dialect.from_json(said["dialect"])
        return cls(**said)


def key_again(sha256: str, name: str) -> str:
    """The key of a content that is landed again on purpose, under another name."""
    text = f"{sha256}\0{name}".encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True, slots=True)
class Copies:
    """How many files landed nothing because their content was landed before, and the last one:
    its name, when it came, and the file and time that its content was landed as."""

    count: int
    name: str
    time: datetime
    landed_as: str
    landed_at: datetime

    def __str__(self) -> str:
        return (
            f"{self.name} came on {self.time:%Y-%m-%d %H:%M} UTC and landed nothing: its content "
            f"was landed as {self.landed_as} on {self.landed_at:%Y-%m-%d %H:%M} UTC"
        )


class Journal:
    """The claims of one topic's files."""

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._folder = files_folder(topic)

    def last(self) -> Claim | None:
        """The claim with the highest offsets; None before the first file."""
        names = [entry.path for entry in self._store.listing(f"{self._folder}claims/")[0]]
        return self._read(max(names)) if names else None

    def claim(self, claim: Claim) -> bool:
        """Claim a place; False when another file has it.

        It may be claimed only while all claims ahead of it can be found by content.
        """
        return self._store.create(f"{self._folder}claims/{claim.start:020d}.json", claim.to_json())

    def by_key(self, key: str) -> Claim | None:
        """The claim of a content's key; None when it never had one that could be found."""
        return self._read(self._content_path(key))

    def make_findable(self, claim: Claim) -> None:
        """Have a claim found by its key."""
        self._store.create(self._content_path(claim.key), claim.to_json())

    def by_name(self, name: str) -> Claim | None:
        """The last claim of a name, for people; nothing depends on it."""
        return self._read(self._name_path(name))

    def remember_name(self, claim: Claim) -> None:
        """Have a claim found by its name."""
        self._store.write(self._name_path(claim.name), claim.to_json())

    def copies(self) -> Copies | None:
        """What is known of files that landed nothing, for people; nothing depends on it."""
        try:
            said = json.loads(self._store.read(f"{self._folder}copies.json"))
        except FileNotFoundError:
            return None
        times = {name: datetime.fromisoformat(said[name]) for name in ("time", "landed_at")}
        return Copies(**{**said, **times})

    def remember_copy(self, name: str, claim: Claim) -> None:
        """Remember that a file landed nothing, because of the claim of its content."""
        before = self.copies()
        said = {
            "count": 1 if before is None else before.count + 1,
            "name": name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "landed_as": claim.name,
            "landed_at": claim.time.isoformat(),
        }
        self._store.write(f"{self._folder}copies.json", json.dumps(said, indent=2).encode())

    def _content_path(self, key: str) -> str:
        return f"{self._folder}contents/{key}.json"

    def _name_path(self, name: str) -> str:
        # A name may be longer, or of other characters, than a store takes.
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        return f"{self._folder}names/{digest}.json"

    def _read(self, path: str) -> Claim | None:
        try:
            return Claim.from_json(self._store.read(path))
        except FileNotFoundError:
            return None
