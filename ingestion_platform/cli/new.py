"""`ingest new`: declare a stream, with a contract proposed from a sample or a given one."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.terminal import Terminal, literal
from ingestion_platform.errors import ContractError
from ingestion_platform.project import how_to

if TYPE_CHECKING:
    from ingestion_platform.contract.model import Contract
    from ingestion_platform.files.reading import Records

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_DEFAULT_TOPIC = str.maketrans("_", "-")
_MOST = 200_000  # records of a sample that are looked at


@dataclass(frozen=True)
class Sample:
    """Records to propose from, as they are and decoded.

    `text` when all their values are strings, as in CSV; `whole` unless there are more records.
    """

    values: list[bytes]
    records: list[dict[str, Any]]
    text: bool
    whole: bool


def new(
    ctx: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Name of the new stream.")],
    sample: Annotated[
        Path | None,
        typer.Option("--from", metavar="SAMPLE", help="Propose a contract from this CSV or JSONL."),
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option("--contract", metavar="FILE", help="Take this contract (ODCS) as it is."),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="Default: the contract's, or else the first word of STREAM."),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Kafka topic. Default: STREAM with - for _.")
    ] = None,
    domains: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the domains. Default: PLATFORM_DOMAINS, or the platform's own.",
        ),
    ] = None,
) -> None:
    """Declare a stream: its contract, and the YAML that gives it a topic.

    From a sample the types, what is required, a key and a partition are
    proposed; what the fields mean is yours to write. Overwrites nothing.

    [dim]Examples:[/]
      ingest new shop_orders --from orders.jsonl
      ingest new shop_orders --contract orders.odcs.yaml --domain shop --topic orders
    """
    terminal: Terminal = ctx.obj
    if (sample is None) == (contract is None):
        raise typer.BadParameter("give a sample or a contract", param_hint="--from, --contract")
    topic = topic or stream.translate(_DEFAULT_TOPIC)
    _check_form(stream, _NAME, "STREAM")
    _check_form(topic, _TOPIC, "--topic")
    if domain is not None:
        _check_form(domain, _NAME, "--domain")
    with tempfile.TemporaryDirectory(prefix="ingest-new-") as scratch:
        draft = Path(scratch) / f"{stream}.odcs.yaml"
        if sample is not None:
            domain = domain or stream.split("_")[0]
            read = _propose(terminal, Path(scratch), draft, domain, sample)
        else:
            assert contract is not None
            read = _given(contract, draft, stream)
        domain = domain or read.domain
        _check_form(domain, _NAME, "--domain")
        folder = _folder(domains)
        _check_free(folder, stream, topic, read.table)
        target = _declare(folder / domain, draft, stream, topic)
    _tell(terminal, target, stream, topic, sample, foreign=domains)


def _check_form(value: str, form: re.Pattern[str], hint: str) -> None:
    if not form.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is not of the form {form.pattern}", param_hint=hint)


def _given(contract: Path, draft: Path, stream: str) -> Contract:
    """The given contract, copied to `draft`."""
    from ingestion_platform.contract.odcs import load_contract

    load_contract(contract)  # an error names the file that the user knows
    shutil.copyfile(contract, draft)
    read = load_contract(draft)
    if read.stream != stream:
        raise ContractError(
            str(contract), "stream", f"is {read.stream!r}", action=f"run `ingest new {read.stream}`"
        )
    return read


def _propose(terminal: Terminal, scratch: Path, draft: Path, domain: str, file: Path) -> Contract:
    """The contract proposed from a sample, written to `draft` and tried on the sample."""
    import yaml

    from ingestion_platform.contract.odcs import load_contract
    from ingestion_platform.contract.propose import propose

    sample = _read(scratch, file)
    if not sample.whole:
        terminal.say(f"only the first {_MOST:,} records of the sample are looked at")
    stream = draft.name.split(".")[0]
    try:
        proposal = propose(stream, domain, sample.records, text=sample.text)
    except ValueError as error:
        action = "take a sample with records as your producers send them"
        raise ContractError(str(file), "the sample", str(error), action=action) from None
    for name, why in proposal.left_out.items():
        terminal.say(f"[yellow]left out[/] {literal(name)}: {literal(why)}")
    head = f"# Proposed from {file.name} ({len(sample.records):,} records): a start, not a truth.\n"
    body = yaml.safe_dump(proposal.document, sort_keys=False, allow_unicode=True, width=100)
    draft.write_text(head + body, encoding="utf-8")
    contract = load_contract(draft)
    for reason, times in _rejections(contract, sample).most_common(5):
        terminal.say(f"[yellow]rejected[/] {times:,} records of the sample: {literal(reason)}")
    return contract


def _read(scratch: Path, file: Path) -> Sample:
    """The records of a sample, read as the file source reads files."""
    from ingestion_platform.files.formats import copy_file, format_of, open_copy
    from ingestion_platform.files.spool import Spool

    with Spool(scratch / "spool") as spool:
        content = open_copy(copy_file(file, spool), format_of(file.name), spool)
        values = list(islice(_values(content.records()), _MOST + 1))
    records = [_decoded(file, number, value) for number, value in enumerate(values[:_MOST], 1)]
    return Sample(values[:_MOST], records, content.format.kind == "csv", len(values) <= _MOST)


def _values(batches: Iterator[Records]) -> Iterator[bytes]:
    """The values of records that their reader could take."""
    for batch in batches:
        values = enumerate(batch.values.to_pylist())
        yield from (value for at, value in values if at not in batch.problems)


def _decoded(file: Path, number: int, value: bytes) -> dict[str, Any]:
    import json

    record = json.loads(value)
    if not isinstance(record, dict):
        problem = f"is a {type(record).__name__}, not an object"
        action = "a record is a JSON object of named fields"
        raise ContractError(str(file), f"record {number:,}", problem, action=action)
    return record


def _rejections(contract: Contract, sample: Sample) -> Counter[str]:
    """Why the contract refuses records of its own sample (a key given twice, for instance)."""
    import pyarrow as pa

    from ingestion_platform.bronze.text import TextReader
    from ingestion_platform.bronze.validate import Validator

    values = pa.array(sample.values, pa.binary())
    if sample.text:
        values = TextReader(contract).typed(values)
    reasons = Validator(contract).parse(values).reasons.to_pylist()
    return Counter(reason for each in reasons for reason in each)


def _folder(given: Path | None) -> Path:
    """Where the streams are declared; it exists from now on."""
    from ingestion_platform.settings import own_definitions
    from ingestion_platform.streams import DOMAINS_FOLDER

    folder = given or own_definitions() or DOMAINS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_free(folder: Path, stream: str, topic: str, table: str) -> None:
    """Refuse a name, topic or table that another stream has.

    Raises:
        ContractError: it is taken; says by whom.
    """
    from ingestion_platform.streams import declared_streams, folded, folders

    roots = dict.fromkeys(each.resolve() for each in (*folders(), folder))
    for other in declared_streams(*roots).values():
        taken = (
            ("the name", stream, other.name, "choose another STREAM"),
            ("the topic", topic, other.topic, "give another --topic"),
            ("the table", table, other.contract.table, "choose another STREAM, or `physicalName`"),
        )
        for what, wanted, has, action in taken:
            if folded(wanted) == folded(has):
                where = str(other.contract_file)
                said = "" if wanted == has else f" as {has!r}, which some readers take for equal"
                problem = f"{what} {wanted!r} is taken by stream {other.name}{said}"
                raise ContractError(where, what, problem, action=action)


def _declare(folder: Path, draft: Path, stream: str, topic: str) -> Path:
    """Add contract and declaration to a domain's folder; the contract file."""
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


def _tell(
    terminal: Terminal,
    target: Path,
    stream: str,
    topic: str,
    sample: Path | None,
    *,
    foreign: Path | None,
) -> None:
    """Where the stream is, and what to do next."""
    terminal.out.print(literal(str(target)), soft_wrap=True)
    terminal.say(f"[green]declared[/] {stream} (topic {topic}). Next:")
    steps = [
        (f"ingest contract lint {target}", "and write what it misses"),
        (f"ingest load {stream} {sample or 'FILE'} --dry-run", "what files would become"),
        (f"ingest load {stream} {sample or 'FILE'}", "files into lake and bronze"),
        (f"ingest run {stream}", f"the records of topic {topic}"),
        (f"ingest verify {stream}", "all there, exactly once"),
        (how_to("dev"), "its assets in Dagster"),
    ]
    if foreign is not None:
        steps.insert(0, (f"export PLATFORM_DOMAINS={foreign.resolve()}", "so that it is found"))
    for command, why in steps:
        terminal.say(f"  {literal(command)}  [dim]{literal(why)}[/]")
