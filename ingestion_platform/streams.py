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
    """A stream's drop zone: a folder below DROP_URL, and patterns of file names.

    Without patterns, all files with the suffix of a known format are taken. `format` (csv, jsonl,
    json or parquet) is for names without such a suffix. `max_size`, in bytes, replaces
    FILES_MAX_SIZE.
    """

    folder: str
    patterns: tuple[str, ...] = ()
    format: str | None = None
    max_size: int | None = None
    csv: Dialect = PLAIN
    """The dialect of CSV files, as far as they do not declare it themselves."""


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
    """Where a table is delivered to: a sink and its options (see `sinks`)."""

    sink: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Stream:
    """A contract with its sources and destinations: one document of a `defs.yaml`."""

    name: str
    domain: str
    topic: str
    contract_file: Path
    group_id: str
    partitions: int = 4
    """Number of log partitions that have assets; a topic with more is reported. 0 for a stream of
    files alone."""
    start_date: str | None = None
    """The declared first ingest date; see `first_date`."""
    files: FileSource | None = None
    """Its drop zone, which a sensor polls; without it, runs read the folder of its name."""
    key: str | None = None
    """The declared field of the Kafka key; see `key_field`."""
    deliver: tuple[Destination, ...] = ()
    """The destinations of its bronze table."""
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
            ContractError: the contract cannot be used, or lacks a field that the stream's
                declaration names.
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
        """The field whose value is the Kafka key: records with the same value stay in order.

        It is the declared one, or the first of the contract's primary key; None without either.
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
    """Check that Dagster allows the name, and Kafka the topic."""
    name, topic = attributes["name"], attributes.get("topic")
    if not _NAME.fullmatch(name):
        raise ContractError(
            file,
            f"stream {name}, name",
            "has characters other than letters, digits and _, which Dagster does not allow",
            action="for example `name: shop_orders`",
        )
    if topic is not None and not _TOPIC.fullmatch(str(topic)):
        raise ContractError(
            file,
            f"stream {name}, topic",
            f"{topic!r} is not a valid Kafka topic (at most 249 letters, digits, `.`, `_`, `-`)",
            action="for example `topic: shop-orders`",
        )


def destinations(given: Any, file: str, where: str) -> tuple[Destination, ...]:
    """Parse the list of `deliver:`, which has sinks by name, each alone or with its options.

    Raises:
        ContractError: it is no such list; names `where` in `file` it stands.
    """
    parsed = []
    for each in [] if given is None else given if isinstance(given, list) else [given]:
        pairs = {each: {}} if isinstance(each, str) else each
        if not (isinstance(pairs, Mapping) and len(pairs) == 1):
            raise ContractError(
                file,
                f"{where}, deliver",
                "is no list of sinks",
                action="for example `deliver: [postgres: {table: shop.users}]`",
            )
        ((sink, options),) = pairs.items()
        if not isinstance(options or {}, Mapping):
            action = f"write `{sink}: {{option: value}}`, or `{sink}` alone"
            raise ContractError(file, f"{where}, deliver, {sink}", "has no options", action=action)
        parsed.append(Destination(str(sink), dict(options or {})))
    return tuple(parsed)


def _check_field(name: str, contract: Contract, where: str, folder: Path) -> None:
    """Check that the contract has the field, and that producers send it as a single value.

    Raises:
        ContractProblems: it does not; names the fields that can be used.
    """
    nested = (Kind.OBJECT, Kind.ARRAY, Kind.JSON)
    usable = [f.name for f in contract.fields if f.derived is None and f.kind not in nested]
    if name in usable:
        return
    from ingestion_platform.contract.problems import ContractProblems, Problem

    known = any(field.name == name for field in contract.fields)
    problem = "is derived or nested" if known else f"is no field of {Path(contract.file).name}"
    action = f"use one of: {', '.join(usable)}"
    raise ContractProblems(
        str(folder / "defs.yaml"), [Problem(where, f"{name!r} {problem}", action)]
    )


def _http_paths(
    attributes: Mapping[str, Any], files: FileSource | None, file: str
) -> HttpPaths | None:
    """Parse `http:`; return None without it.

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
    """Return whether `files` takes a staging file of that name; True without a name."""
    if name is None:
        return True
    patterns = (files and files.patterns) or ("*",)
    matched = any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
    return matched and bool(re.fullmatch(rf"[\w-]+{STAGING_SUFFIX}", name))


def _file_source(attributes: Mapping[str, Any], file: str) -> FileSource | None:
    """Parse `files:`; return None without it."""
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
        problem = f"format is none of {', '.join(kinds)}"
        raise ContractError(file, "files", problem, action=action)
    size = given.get("max_size")
    try:
        most = None if size is None else bytes_of(str(size))
    except ValueError as error:
        action = "for example `max_size: 500MB`"
        raise ContractError(file, "files, max_size", str(error), action=action) from None
    return FileSource(
        str(folder), tuple(patterns), given.get("format"), most, dialect_of(given, file)
    )


def require_topic(stream: Stream) -> Stream:
    """Return the stream, if records can be sent to it.

    Raises:
        NoTopic: it takes files only; names the folder for them.
    """
    if stream.kafka:
        return stream
    raise no_topic(stream)


def no_topic(stream: Stream) -> NoTopic:
    """Return the error of sending records to a stream that takes files only."""
    return NoTopic(
        f"stream {stream.name} has no Kafka topic: it takes files only",
        action=f"put a file into {stream.file_source.folder}/ of the drop zone, "
        f"or run `ingest load {stream.name} FILE`",
    )


def folders() -> tuple[Path, ...]:
    """Return the folders of domains: the platform's own, then PLATFORM_DOMAINS if it is set.

    Raises:
        SettingError: PLATFORM_DOMAINS is no folder.
    """
    own = own_definitions()
    if own is None:
        return (DOMAINS_FOLDER,)
    if not own.is_dir():
        raise SettingError("PLATFORM_DOMAINS", f"there is no folder {own}", example="./domains")
    return DOMAINS_FOLDER, own


def declared_streams(*roots: Path) -> dict[str, Stream]:
    """Return all streams that these folders declare, by name, in the order of their files.

    The default folders are those of `folders`.

    Raises:
        ContractError: a declaration is wrong, or two streams share a name, topic or path.
        SettingError: PLATFORM_DOMAINS is no folder.
    """
    streams: dict[str, Stream] = {}
    declared = ((root, stream) for root in roots or folders() for stream in _read(root))
    for root, stream in declared:
        for other in streams.values():
            if conflict := name_conflict(stream, other):
                raise ContractError(
                    str(root / stream.domain / "defs.yaml"),
                    f"stream {stream.name}",
                    f"{conflict} stream {other.name} of {other.domain}",
                    action="give it one of its own",
                )
        streams[stream.name] = stream
    return streams


def name_conflict(stream: Stream, other: Stream) -> str:
    """Return which name of a stream another one has too; empty if none.

    Names that differ only in case, or in dots, dashes and underscores, count as equal: some of
    Kafka, Dagster, file systems and metrics do not tell them apart.
    """
    for what in ("name", "topic"):
        mine, theirs = getattr(stream, what), getattr(other, what)
        if mine == theirs:
            return f"its {what} {mine!r} is also that of"
        if normalized(mine) == normalized(theirs):
            difference = "differs only in case, dots, dashes or underscores"
            return f"its {what} {mine!r} {difference} from {theirs!r}, that of"
    mine, theirs = (set(each.http.all if each.http else ()) for each in (stream, other))
    if shared := sorted(mine & theirs):
        return f"its HTTP path {shared[0]} is also that of"
    if stream.contract_file.resolve() == other.contract_file.resolve():
        return f"its contract {stream.contract_file.name}, and so its table, is also that of"
    return ""


def normalized(name: str) -> str:
    """Return a name without the differences that some of its readers ignore."""
    return re.sub(r"[.-]", "_", name).casefold()


def file_conflict(stream: Stream, other: Stream) -> str:
    """Return which files both of two streams take; empty if their drop zones do not overlap."""
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
    """Return the streams of these names, in order.

    Raises:
        UnknownStream: no stream has that name; lists the declared names.
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
