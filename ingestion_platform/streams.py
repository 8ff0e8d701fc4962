"""The declared streams: `domains/<domain>/defs.yaml` and the contract beside it, as plain data.

Both the Dagster component and the command line read streams here, so there is one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.dialect import PLAIN, SETTINGS, Dialect, dialect_of
from ingestion_platform.each import Attempt, for_each
from ingestion_platform.errors import ContractError, NoTopic, SettingError, UnknownStream
from ingestion_platform.settings import own_definitions
from ingestion_platform.sizes import bytes_of

DOMAINS_FOLDER = Path(__file__).parent / "domains"
COMPONENT = "ingestion_platform.orchestration.Stream"
BRONZE, QUARANTINE = "bronze", "quarantine"
EARLIEST = date(2026, 1, 1)
"""Older broker timestamps are taken for mistakes, unless the stream declares a `start_date`."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_PATH = re.compile(r"(/[A-Za-z0-9_-]+)+")
RESERVED_PATHS = frozenset({"v1", "docs", "health", "healthz", "metrics", "readyz"})
"""First segments of the HTTP API's own paths."""
STAGING_SUFFIX = "_api_staging.csv"
"""End of the names of staging files: only in these, readers undo the escaping of formulas."""


@dataclass(frozen=True)
class FileSource:
    """Where a stream's files are dropped: a folder below DROP_URL, and what they are called.

    Without patterns every name with the suffix of a known format is taken; `format` (csv, jsonl,
    json or parquet) is for names that do not tell it. `max_size` is the most bytes that a file may
    have, in place of FILES_MAX_SIZE.
    """

    folder: str
    patterns: tuple[str, ...] = ()
    format: str | None = None
    max_size: int | None = None
    csv: Dialect = PLAIN
    """How CSV files are written, as far as they do not say so."""


@dataclass(frozen=True)
class HttpPaths:
    """Paths of the HTTP API for one record each, beside the one for batches that all streams have.

    The answer is `{"status": "accepted"}`, and the record's value of the field `echo`, if one is
    named.
    """

    path: str
    """Sends the record to the topic."""
    echo: str | None = None
    staging_path: str | None = None
    """Appends the record to `staging_file` in the stream's drop zone instead."""
    staging_file: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """The paths that are declared."""
        return (self.path, self.staging_path) if self.staging_path else (self.path,)


@dataclass(frozen=True)
class Destination:
    """Where a table is delivered to: a sink, and the options that it understands (see `sinks`)."""

    sink: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Stream:
    """A contract plus its sources and destinations, as one document of a `defs.yaml` declares
    it."""

    name: str
    domain: str
    topic: str
    contract_file: Path
    group_id: str
    partitions: int = 4
    """Log partitions that assets are declared for; a topic with more is reported, not ignored.
    0 for a stream of files alone."""
    start_date: str | None = None
    """The declared first ingest date; see `first_date`."""
    files: FileSource | None = None
    """Its drop zone, which a sensor watches; without it, runs look into the folder of its name."""
    key: str | None = None
    """The field that is declared to be the records' Kafka key; see `key_field`."""
    deliver: tuple[Destination, ...] = ()
    """Where its bronze table is delivered to."""
    http: HttpPaths | None = None
    """Its own paths in the HTTP API."""

    @property
    def first_date(self) -> date:
        """The first ingest date that a record can have: the declared one, or else EARLIEST."""
        return EARLIEST if self.start_date is None else date.fromisoformat(self.start_date)

    @property
    def kafka(self) -> bool:
        """Whether it has a topic; if not, `topic` only names its folder in the lake."""
        return self.partitions > 0

    @property
    def file_source(self) -> FileSource:
        """Its drop zone: by default the folder of its name, for all formats."""
        return self.files or FileSource(self.name)

    @cached_property
    def contract(self) -> Contract:
        """The parsed contract.

        Raises:
            ContractError: the file says something the platform cannot do, or has no such field as
                the declared key.
        """
        from ingestion_platform.contract.odcs import load_contract

        contract = load_contract(self.contract_file)
        folder = self.contract_file.parent
        if self.key is not None:
            _check_field(self.key, contract, f"stream {self.name}, key", folder)
        if self.http is not None and self.http.echo is not None:
            _check_field(self.http.echo, contract, f"stream {self.name}, http, echo", folder)
        return contract

    @property
    def key_field(self) -> str | None:
        """The field whose value is a record's Kafka key, so that its records stay in order.

        The declared one, or the one that leads the contract's primary key; None without either.
        """
        return self.key or next(iter(self.contract.primary_key), None)

    @property
    def bronze_table(self) -> str:
        """The table of valid rows, as namespace.name."""
        return f"{BRONZE}.{self.contract.table}"

    @property
    def quarantine_table(self) -> str:
        """The table of rejected records, as namespace.name."""
        return f"{QUARANTINE}.{self.contract.table}"


def stream_of(attributes: Mapping[str, Any], folder: Path) -> Stream:
    """Return the stream of a YAML document's attributes; `folder` holds that document.

    Raises:
        ContractError: an attribute is missing, unknown or wrong; names it.
    """
    file = str(folder / "defs.yaml")
    known = {"name", "topic", "contract", "group_id", "partitions", "start_date", "files", "key"}
    known |= {"deliver", "http"}
    for unknown in sorted(set(attributes) - known):
        raise ContractError(
            file, unknown, "is not an attribute of a stream", action=f"use one of {sorted(known)}"
        )
    files = _file_source(attributes, file)
    for needed in ("name",) if files is not None else ("name", "topic"):
        if not isinstance(attributes.get(needed), str):
            raise ContractError(file, needed, "is missing", action=f"add `{needed}: ...`")
    name = attributes["name"]
    _check_names(attributes, file)
    kafka = attributes.get("topic") is not None
    contract_file = folder / attributes.get("contract", f"{name}.odcs.yaml")
    if not contract_file.is_file():
        raise ContractError(
            file, f"stream {name}", f"no contract {contract_file.name}", action="add the file"
        )
    key = attributes.get("key")
    if key is not None and not (isinstance(key, str) and kafka):
        problem = "is no name of a field" if kafka else "is of no use to a stream without a topic"
        raise ContractError(
            file, f"stream {name}, key", problem, action="for example `key: user_id`, or remove it"
        )
    return Stream(
        name=name,
        domain=domain_of(folder),
        topic=attributes["topic"] if kafka else name,
        contract_file=contract_file,
        group_id=attributes.get("group_id", f"ingest-{name}"),
        partitions=int(attributes.get("partitions", Stream.partitions)) if kafka else 0,
        start_date=str(attributes["start_date"]) if attributes.get("start_date") else None,
        files=files,
        key=key,
        deliver=destinations(attributes.get("deliver"), file, f"stream {name}"),
        http=_http_paths(attributes, files, file),
    )


def _check_names(attributes: Mapping[str, Any], file: str) -> None:
    """See that the name and the topic can be used wherever they will be."""
    name, topic = attributes["name"], attributes.get("topic")
    if not _NAME.fullmatch(name):
        raise ContractError(
            file,
            f"stream {name}, name",
            "has other characters than letters, digits and _, which Dagster's names have",
            action="for example `name: shop_orders`",
        )
    if topic is not None and not _TOPIC.fullmatch(str(topic)):
        raise ContractError(
            file,
            f"stream {name}, topic",
            f"{topic!r} is no name that Kafka takes (at most 249 letters, digits, `.`, `_`, `-`)",
            action="for example `topic: shop-orders`",
        )


def destinations(given: Any, file: str, said: str) -> tuple[Destination, ...]:
    """What `deliver:` lists: sinks by name, each alone or with its options.

    Raises:
        ContractError: it is no such list.
    """
    found = []
    for each in [] if given is None else given if isinstance(given, list) else [given]:
        pairs = {each: {}} if isinstance(each, str) else each
        if not (isinstance(pairs, Mapping) and len(pairs) == 1):
            raise ContractError(
                file,
                f"{said}, deliver",
                "is no list of sinks",
                action="for example `deliver: [postgres: {table: shop.users}]`",
            )
        ((sink, options),) = pairs.items()
        if not isinstance(options or {}, Mapping):
            action = f"write `{sink}: {{option: value}}`, or `{sink}` alone"
            raise ContractError(file, f"{said}, deliver, {sink}", "has no options", action=action)
        found.append(Destination(str(sink), dict(options or {})))
    return tuple(found)


def _check_field(name: str, contract: Contract, where: str, folder: Path) -> None:
    """Check that a name is that of a field which producers send with a single value.

    Raises:
        ContractProblems: it is not; names the fields that are.
    """
    nested = (Kind.OBJECT, Kind.ARRAY, Kind.JSON)
    usable = [f.name for f in contract.fields if f.derived is None and f.kind not in nested]
    if name in usable:
        return
    from ingestion_platform.contract.problems import ContractProblems, Problem

    known = any(field.name == name for field in contract.fields)
    problem = "is derived or nested" if known else f"is no field of {Path(contract.file).name}"
    found = Problem(where, f"{name!r} {problem}", f"use one of: {', '.join(usable)}")
    raise ContractProblems(str(folder / "defs.yaml"), [found])


def _http_paths(
    attributes: Mapping[str, Any], files: FileSource | None, file: str
) -> HttpPaths | None:
    """Return the paths that `http:` declares; None without it.

    Raises:
        ContractError: a key is unknown or missing, or a path or file name cannot be used.
    """
    given = attributes.get("http")
    if given is None:
        return None
    known = {"path", "echo", "staging_path", "staging_file"}
    example = "for example `http: {path: /orders}`"
    if not isinstance(given, Mapping) or not {"path"} <= set(given) <= known:
        problem, action = f"needs a path, and has no keys but {sorted(known)}", example
    elif not all(isinstance(text, str) for text in given.values()):
        problem, action = "has a value that is no text", example
    elif attributes.get("topic") is None:
        problem, action = "is of no use to a stream without a topic", "add `topic: ...`"
    elif unusable := [path for path in HttpPaths(**given).all if not _is_free_path(path)]:
        problem, action = f"{unusable[0]!r} is no path, or one of the API's own", example
    elif ("staging_path" in given) != ("staging_file" in given):
        problem, action = "has a staging path without a file, or a file without", "give both"
    elif not _is_staging_file(given.get("staging_file"), files):
        problem = f"{given['staging_file']!r} is no name of a staging file that `files` takes"
        action = f"for example `staging_file: orders{STAGING_SUFFIX}`"
    else:
        return HttpPaths(**given)
    raise ContractError(file, f"stream {attributes['name']}, http", problem, action=action)


def _is_free_path(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and path.split("/")[1] not in RESERVED_PATHS


def _is_staging_file(name: str | None, files: FileSource | None) -> bool:
    """Return whether a file of that name, if there is one, is read back as it was written."""
    if name is None:
        return True
    patterns = (files and files.patterns) or ("*",)
    matched = any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
    return matched and bool(re.fullmatch(rf"[\w-]+{STAGING_SUFFIX}", name))


def _file_source(attributes: Mapping[str, Any], file: str) -> FileSource | None:
    """The drop zone that `files:` describes; None without it."""
    given = attributes.get("files")
    if given is None:
        return None
    known = {"folder", "pattern", "format", "max_size", *SETTINGS}
    action = "for example `files: {folder: shop, pattern: ['*user*.csv']}`"
    if not isinstance(given, Mapping) or set(given) - known:
        raise ContractError(file, "files", f"has other keys than {sorted(known)}", action=action)
    folder = given.get("folder") or attributes.get("name")
    pattern = given.get("pattern") or []
    patterns = [pattern] if isinstance(pattern, str) else pattern
    kinds = ("csv", "jsonl", "json", "parquet")
    if not all(isinstance(text, str) for text in (folder, *patterns)):
        raise ContractError(file, "files", "has a name that is no text", action=action)
    if given.get("format") not in (None, *kinds):
        said = f"format is none of {', '.join(kinds)}"
        raise ContractError(file, "files", said, action=action)
    size = given.get("max_size")
    try:
        most = None if size is None else bytes_of(str(size))
    except ValueError as error:
        action = "for example `max_size: 500MB`"
        raise ContractError(file, "files, max_size", str(error), action=action) from None
    return FileSource(
        str(folder), tuple(patterns), given.get("format"), most, dialect_of(given, file)
    )


def with_topic(stream: Stream) -> Stream:
    """The stream, if records can be sent to it.

    Raises:
        NoTopic: it takes files only; says where they go.
    """
    if stream.kafka:
        return stream
    raise no_topic(stream)


def no_topic(stream: Stream) -> NoTopic:
    """The error of sending records to a stream that takes files only."""
    return NoTopic(
        f"stream {stream.name} has no Kafka topic: it takes files only",
        action=f"put a file into {stream.file_source.folder}/ of the drop zone, "
        f"or run `ingest load {stream.name} FILE`",
    )


def folders() -> tuple[Path, ...]:
    """Where streams are declared: the platform's own folder, then PLATFORM_DOMAINS if it is set.

    Raises:
        SettingError: that is no folder.
    """
    own = own_definitions()
    if own is None:
        return (DOMAINS_FOLDER,)
    if not own.is_dir():
        raise SettingError("PLATFORM_DOMAINS", f"there is no folder {own}", example="./domains")
    return DOMAINS_FOLDER, own


def declared_streams(*roots: Path) -> dict[str, Stream]:
    """All streams that these folders declare, by name, in the order of their files.

    Without folders: the platform's own, then those of the folder PLATFORM_DOMAINS.

    Raises:
        ContractError: a declaration is wrong, or the names of two streams would be mixed up.
        SettingError: PLATFORM_DOMAINS is no folder.
    """
    streams: dict[str, Stream] = {}
    found = ((root, stream) for root in roots or folders() for stream in _read(root))
    for home, stream in found:
        for other in streams.values():
            if clash := clash_of(stream, other):
                raise ContractError(
                    str(home / stream.domain / "defs.yaml"),
                    f"stream {stream.name}",
                    f"{clash} stream {other.name} of {other.domain}",
                    action="give it one of its own",
                )
        streams[stream.name] = stream
    return streams


def clash_of(stream: Stream, other: Stream) -> str:
    """Say which name of a stream would be mixed up with that of another one; empty if none.

    Kafka, Dagster, file systems and metrics each take some names for equal that differ in case, or
    in a dot, a dash and an underscore. So none may.
    """
    for what in ("name", "topic"):
        mine, theirs = getattr(stream, what), getattr(other, what)
        if mine == theirs:
            return f"its {what} {mine!r} is also that of"
        if folded(mine) == folded(theirs):
            said = "differs only in case, dots, dashes or underscores"
            return f"its {what} {mine!r} {said} from {theirs!r}, that of"
    mine, theirs = (set(each.http.all if each.http else ()) for each in (stream, other))
    if shared := sorted(mine & theirs):
        return f"its HTTP path {shared[0]} is also that of"
    if stream.contract_file.resolve() == other.contract_file.resolve():
        return f"its contract {stream.contract_file.name}, and so its table, is also that of"
    return ""


def folded(name: str) -> str:
    """A name as the least particular of its readers sees it."""
    return re.sub(r"[.-]", "_", name).casefold()


def drop_clash(stream: Stream, other: Stream) -> str:
    """Say which files both of two streams would take; empty when their drop zones are apart."""
    mine, theirs = (f"{each.file_source.folder.strip('/')}/" for each in (stream, other))
    if not (mine.startswith(theirs) or theirs.startswith(mine)):
        return ""
    for one, two in ((stream, other), (other, stream)):
        for pattern in one.file_source.patterns or ("*",):
            sample = re.sub(r"\[.*?\]|[*?]", "x", pattern).lower()
            taken = two.file_source.patterns or ("*",)
            if any(fnmatchcase(sample, each.lower()) for each in taken):
                return f"files named {pattern} in {mine.rstrip('/')} are also those of"
    return ""


def select(streams: Mapping[str, Stream], names: Iterable[str]) -> list[Stream]:
    """The named streams.

    Raises:
        UnknownStream: no stream of that name; lists the names there are.
    """
    chosen = []
    for name in names:
        if name not in streams:
            raise UnknownStream(
                f"no stream {name!r} is declared", action=f"use one of: {', '.join(streams)}"
            )
        chosen.append(streams[name])
    return chosen


def readable(streams: Iterable[Stream]) -> tuple[list[Stream], list[Attempt[Stream, Contract]]]:
    """Return the streams whose contract can be read, and the failed attempts of the others."""
    attempts = list(for_each(lambda stream: stream.contract, streams))
    failed = [of for of in attempts if of.error is not None]
    return [of.item for of in attempts if of.error is None], failed


def _read(root: Path) -> Iterator[Stream]:
    for file in definition_files(root):
        for attributes in documents(file, COMPONENT):
            yield stream_of(attributes, file.parent)


def definition_files(root: Path) -> list[Path]:
    """Return the `defs.yaml` of each domain below `root`, or of each stream of a domain."""
    return sorted([*root.glob("*/defs.yaml"), *root.glob("*/*/defs.yaml")])


def domain_of(folder: Path) -> str:
    """Return the domain that a folder with a `defs.yaml` belongs to: its own name, or that of the
    folder above it, if the folder above is not where domains are declared."""
    declared = {root.resolve() for root in folders()}
    above = folder.resolve().parent
    return above.name if above.parent in declared else folder.name


def documents(file: Path, component: str) -> Iterator[Mapping[str, Any]]:
    """The attributes of the documents of a YAML file that have a component's type."""
    import yaml

    for document in yaml.safe_load_all(file.read_text()):
        if document and document.get("type") == component:
            yield document.get("attributes") or {}
