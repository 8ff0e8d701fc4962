"""Declare a new stream: its contract, and the YAML that gives it a topic.

`ingest new` and Dagster's scaffolding both call this.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import ContractError

if TYPE_CHECKING:
    from ingestion_platform.contract.model import Contract
    from ingestion_platform.files.reading import Records

NAME = re.compile(r"[a-z][a-z0-9_]*")
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_DEFAULT_TOPIC = str.maketrans("_", "-")
_SAMPLE_RECORDS = 200_000
"""Records of a sample that are read; the others are ignored."""


@dataclass(frozen=True)
class NewStream:
    """What to declare: a name, its topic, and either a sample or a contract file.

    Without a topic: the name with `-` for `_`. Without a domain: the contract's, or the first word
    of the name.
    """

    name: str
    sample: Path | None = None
    contract: Path | None = None
    domain: str | None = None
    topic: str | None = None

    @property
    def topic_name(self) -> str:
        """The topic to declare."""
        return self.topic or self.name.translate(_DEFAULT_TOPIC)


@dataclass(frozen=True)
class DeclaredStream:
    """The contract file written, and what of the sample the contract does not take.

    `left_out` has the reason by field, `rejected` the most frequent reasons with their counts.
    """

    contract_file: Path
    left_out: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    truncated: bool = False
    """Whether the sample has more records than were read."""

    @property
    def notes(self) -> list[str]:
        """One line for each field or reason."""
        lines = [f"left out {name}: {why}" for name, why in self.left_out.items()]
        lines += [
            f"rejected {n:,} records of the sample: {why}" for why, n in self.rejected.items()
        ]
        if self.truncated:
            lines.append(f"only the first {_SAMPLE_RECORDS:,} records of the sample were read")
        return lines


@dataclass(frozen=True)
class _Sample:
    """Records to propose from, as they are and decoded.

    `text` when all their values are strings, as in CSV; `whole` unless there are more records.
    """

    values: list[bytes]
    records: list[dict[str, Any]]
    text: bool
    whole: bool


def declare_stream(
    new: NewStream, root: Path, *, folder: Callable[[Path], Path] = lambda domain: domain
) -> DeclaredStream:
    """Write the contract and the declaration of a stream below `root`, the folder of domains.

    `folder` gives the folder of the two files from that of the domain. Overwrites nothing.

    Raises:
        ContractError: a name is malformed or taken, the sample or the contract cannot be used, or
            the contract file exists.
    """
    if (new.sample is None) == (new.contract is None):
        raise ContractError(new.name, "source", "needs a sample or a contract", action="give one")
    _check_form(new.name, NAME, "the name")
    _check_form(new.topic_name, TOPIC, "the topic")
    with tempfile.TemporaryDirectory(prefix="ingest-new-") as scratch:
        draft = Path(scratch) / f"{new.name}.odcs.yaml"
        if new.sample is not None:
            domain = new.domain or new.name.split("_")[0]
            _check_form(domain, NAME, "the domain")
            contract, declared = _propose(Path(scratch), draft, domain, new.sample)
        else:
            assert new.contract is not None
            contract, declared = _given(new.contract, draft, new.name), DeclaredStream(draft)
            domain = new.domain or contract.domain
            _check_form(domain, NAME, "the domain")
        root.mkdir(parents=True, exist_ok=True)
        _check_free(root, new.name, new.topic_name, contract.table)
        target = _declare(folder(root / domain), draft, new.name, new.topic_name)
    return replace(declared, contract_file=target)


def _check_form(value: str, form: re.Pattern[str], what: str) -> None:
    if not form.fullmatch(value):
        problem = f"{value!r} is not of the form {form.pattern}"
        raise ContractError("new stream", what, problem, action="choose another one")


def _given(contract: Path, draft: Path, stream: str) -> Contract:
    """Copy the given contract to `draft` and read it."""
    from ingestion_platform.contract.odcs import load_contract

    load_contract(contract)  # an error names the file that the user knows
    shutil.copyfile(contract, draft)
    read = load_contract(draft)
    if read.stream != stream:
        raise ContractError(
            str(contract), "stream", f"is {read.stream!r}", action=f"run `ingest new {read.stream}`"
        )
    return read


def _propose(
    scratch: Path, draft: Path, domain: str, file: Path
) -> tuple[Contract, DeclaredStream]:
    """Propose a contract from a sample, write it to `draft` and validate the sample by it."""
    import yaml

    from ingestion_platform.contract.odcs import load_contract
    from ingestion_platform.contract.propose import propose

    sample = _read(scratch, file)
    stream = draft.name.split(".")[0]
    try:
        proposal = propose(stream, domain, sample.records, text=sample.text)
    except ValueError as error:
        action = "take a sample with records as your producers send them"
        raise ContractError(str(file), "the sample", str(error), action=action) from None
    head = f"# Proposed from {file.name} ({len(sample.records):,} records): a start, not a truth.\n"
    body = yaml.safe_dump(proposal.document, sort_keys=False, allow_unicode=True, width=100)
    draft.write_text(head + body, encoding="utf-8")
    contract = load_contract(draft)
    return contract, DeclaredStream(
        draft,
        left_out=dict(proposal.left_out),
        rejected=dict(_rejections(contract, sample).most_common(5)),
        truncated=not sample.whole,
    )


def _read(scratch: Path, file: Path) -> _Sample:
    """Read the records of a sample as the file source reads files."""
    from ingestion_platform.files.formats import copy_file, format_of, open_copy
    from ingestion_platform.files.spool import Spool

    with Spool(scratch / "spool") as spool:
        content = open_copy(copy_file(file, spool), format_of(file.name), spool)
        values = list(islice(_values(content.records()), _SAMPLE_RECORDS + 1))
    records = [
        _decoded(file, number, value) for number, value in enumerate(values[:_SAMPLE_RECORDS], 1)
    ]
    return _Sample(
        values[:_SAMPLE_RECORDS],
        records,
        content.format.kind == "csv",
        len(values) <= _SAMPLE_RECORDS,
    )


def _values(batches: Iterator[Records]) -> Iterator[bytes]:
    """Yield the values of the records that can be read."""
    for batch in batches:
        values = enumerate(batch.values.to_pylist())
        yield from (value for at, value in values if at not in batch.reasons)


def _decoded(file: Path, number: int, value: bytes) -> dict[str, Any]:
    import json

    record = json.loads(value)
    if not isinstance(record, dict):
        problem = f"is a {type(record).__name__}, not an object"
        action = "a record is a JSON object of named fields"
        raise ContractError(str(file), f"record {number:,}", problem, action=action)
    return record


def _rejections(contract: Contract, sample: _Sample) -> Counter[str]:
    """Count the reasons for which the contract rejects records of its own sample."""
    import pyarrow as pa

    from ingestion_platform.bronze.text import TextReader
    from ingestion_platform.bronze.validate import Validator, count_reasons

    values = pa.array(sample.values, pa.binary())
    if sample.text:
        values = TextReader(contract).typed(values)
    return count_reasons(Validator(contract).parse(values).reasons)


def _check_free(folder: Path, stream: str, topic: str, table: str) -> None:
    """Check that no other stream has the name, the topic or the table.

    Raises:
        ContractError: it is taken; says by whom.
    """
    from ingestion_platform.streams import declared_streams, folders, normalized

    roots = dict.fromkeys(each.resolve() for each in (*folders(), folder))
    for other in declared_streams(*roots).values():
        taken = (
            ("the name", stream, other.name, "choose another STREAM"),
            ("the topic", topic, other.topic, "give another --topic"),
            ("the table", table, other.contract.table, "choose another STREAM, or `physicalName`"),
        )
        for what, wanted, has, action in taken:
            if normalized(wanted) == normalized(has):
                where = str(other.contract_file)
                said = "" if wanted == has else f" as {has!r}, which some readers take for equal"
                problem = f"{what} {wanted!r} is taken by stream {other.name}{said}"
                raise ContractError(where, what, problem, action=action)


def _declare(folder: Path, draft: Path, stream: str, topic: str) -> Path:
    """Write contract and declaration to a folder; return the contract file."""
    import yaml

    target, listing = folder / draft.name, folder / "defs.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(draft.read_text(encoding="utf-8"))
    except FileExistsError:
        action = "move it away, or give it with --contract from another folder"
        raise ContractError(str(target), "the file", "exists already", action=action) from None
    from ingestion_platform.streams import COMPONENT

    document = {"type": COMPONENT, "attributes": {"name": stream, "topic": topic}}
    before = listing.read_text(encoding="utf-8") if listing.exists() else ""
    gap = "" if not before.strip() else "---\n" if before.endswith("\n") else "\n---\n"
    with listing.open("a", encoding="utf-8") as file:
        file.write(gap + yaml.safe_dump(document, sort_keys=False))
    return target
