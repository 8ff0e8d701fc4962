"""The journal of a stream's files: which content has which offsets of the log partition FILES.

Before its first record is landed, a file claims its offsets under a name that holds only the start,
so that one of two concurrent files gets them. Landing depends on the claim and the content alone:
any process that has the content can continue where a dead writer stopped.

    topic=<topic>/_files/claims/<start offset>.json
    topic=<topic>/_files/contents/<sha256>.json      (the same claim, by content)
    topic=<topic>/_files/names/<digest>.json         (the last claim of a name)
    topic=<topic>/_files/copies.json                 (the last file that was a copy)
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
    """The offsets of a file: `start` to before `end` of a topic id.

    All records have one ingest date and one timestamp. `archive` is the original's path below
    DROP_URL, `size` its bytes. A `key` is claimed once: it is `sha256`, unless the content was
    landed again on purpose under another name.
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
        """Return the number of records."""
        return self.end - self.start

    def part(self, topic: str, start: int) -> Name:
        """Return the name of the lake file with the records from `start` on."""
        return Name(
            ordinal=0, start=start, ingest_date=self.ingest_date, partition=FILES, topic=topic
        )

    def to_json(self) -> bytes:
        """Return the JSON that the lake stores."""
        document = asdict(self) | {
            "ingest_date": self.ingest_date.isoformat(),
            "time": self.time.isoformat(),
        }
        document["dialect"] = self.dialect.to_json()
        return json.dumps(document, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Claim:
        """Parse the JSON that the lake stores."""
        document = json.loads(text)
        document["ingest_date"] = date.fromisoformat(document["ingest_date"])
        document["time"] = datetime.fromisoformat(document["time"]).astimezone(UTC)
        document["dialect"] = Dialect.from_json(document["dialect"])
        return cls(**document)


def key_again(sha256: str, name: str) -> str:
    """Return the key of a content that is landed again on purpose under another name."""
    text = f"{sha256}\0{name}".encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True, slots=True)
class Copies:
    """The number of files whose content was landed before, and the last of them.

    `name` and `time` are of that file, `landed_as` and `landed_at` of the first with its content.
    """

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
        """Return the claim with the highest offsets; None before the first file."""
        names = [entry.path for entry in self._store.listing(f"{self._folder}claims/")[0]]
        return self._read(max(names)) if names else None

    def claim(self, claim: Claim) -> bool:
        """Claim offsets; return False when another file has them.

        All earlier claims must be findable by content.
        """
        return self._store.create(f"{self._folder}claims/{claim.start:020d}.json", claim.to_json())

    def by_key(self, key: str) -> Claim | None:
        """Return the claim of a key; None without a findable one."""
        return self._read(self._content_path(key))

    def make_findable(self, claim: Claim) -> None:
        """Make a claim findable by its key."""
        self._store.create(self._content_path(claim.key), claim.to_json())

    def by_name(self, name: str) -> Claim | None:
        """Return the last claim of a name; used in messages only."""
        return self._read(self._name_path(name))

    def record_name(self, claim: Claim) -> None:
        """Make a claim findable by its name."""
        self._store.write(self._name_path(claim.name), claim.to_json())

    def copies(self) -> Copies | None:
        """Return the files that were copies; None without any. Used in messages only."""
        try:
            document = json.loads(self._store.read(f"{self._folder}copies.json"))
        except FileNotFoundError:
            return None
        times = {name: datetime.fromisoformat(document[name]) for name in ("time", "landed_at")}
        return Copies(**{**document, **times})

    def record_copy(self, name: str, claim: Claim) -> None:
        """Record that a file landed nothing because `claim` has its content."""
        before = self.copies()
        document = {
            "count": 1 if before is None else before.count + 1,
            "name": name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "landed_as": claim.name,
            "landed_at": claim.time.isoformat(),
        }
        self._store.write(f"{self._folder}copies.json", json.dumps(document, indent=2).encode())

    def _content_path(self, key: str) -> str:
        return f"{self._folder}contents/{key}.json"

    def _name_path(self, name: str) -> str:
        # A store may not accept a name's length or characters.
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        return f"{self._folder}names/{digest}.json"

    def _read(self, path: str) -> Claim | None:
        try:
            return Claim.from_json(self._store.read(path))
        except FileNotFoundError:
            return None
