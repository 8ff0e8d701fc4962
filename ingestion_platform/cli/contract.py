"""`ingest contract`: what is wrong with, or could be better in, the contract files; the documents
that follow from them; and what they change in the tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import All, Json, StreamNames, chosen
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, mark
from ingestion_platform.contract.export import Format

if TYPE_CHECKING:
    from ingestion_platform.contract.export import Published
    from ingestion_platform.contract.lint import Finding
    from ingestion_platform.each import Attempt
    from ingestion_platform.errors import ContractError
    from ingestion_platform.platform import Platform
    from ingestion_platform.streams import Stream

_SAMPLE = 100_000
_REASONS = 5

app = typer.Typer(no_args_is_help=True)


@app.callback()
def contract() -> None:
    """Contracts of streams (Open Data Contract Standard)."""


@app.command()
def lint(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            exists=True,
            dir_okay=False,
            help="Contract files. Default: those of all declared streams.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check contract files: errors that keep them from loading, and good practice.

    Exits with 1 if there is an error.

    [dim]Examples:[/]
      ingest contract lint
      ingest contract lint my_stream.odcs.yaml --json
    """
    from dataclasses import asdict

    from ingestion_platform.contract.lint import Severity
    from ingestion_platform.contract.lint import lint as check

    terminal: Terminal = ctx.obj
    checked = files or declared_contracts()
    findings = check(checked) + ([] if files else of_declarations())
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    if as_json:
        terminal.json([asdict(finding) for finding in findings])
    for finding in () if as_json else findings:
        status = "fail" if finding.severity is Severity.ERROR else "warn"
        place = literal(f"{finding.file}: {finding.element}")
        terminal.out.print(
            f"{mark(status)} {place}: {literal(finding.problem)}\n"
            f"     [cyan]->[/] {literal(finding.action)}",
            soft_wrap=True,
        )
    result = "[bold red]not usable[/]" if failed else "[green]usable[/]"
    terminal.say(f"{len(checked)} contract{'s' * (len(checked) != 1)}: {result}")
    if failed:
        raise typer.Exit(1)


def of_declarations() -> list[Finding]:
    """Return what is wrong between the declared streams, their contracts and each other."""
    from ingestion_platform.contract.lint import Finding, Severity
    from ingestion_platform.contract.problems import ContractProblems
    from ingestion_platform.errors import ContractError
    from ingestion_platform.sinks.declare import declared_deliveries
    from ingestion_platform.streams import declared_streams, file_conflict

    findings: list[Finding] = []
    try:
        streams = list(declared_streams().values())
    except ContractError as error:
        return [_finding(error)]
    for at, stream in enumerate(streams):
        findings += [
            Finding(
                str(stream.contract_file.parent / "defs.yaml"),
                f"stream {stream.name}, files",
                f"{clash} stream {other.name}: whichever looks first takes them",
                "give each a folder, or names, of its own",
                Severity.ERROR,
            )
            for other in streams[:at]
            if (clash := file_conflict(stream, other))
        ]
    for stream in streams:
        try:
            _ = stream.contract
        except ContractProblems as error:
            if error.file != str(stream.contract_file):  # those are found anyway
                findings += [
                    Finding(error.file, p.element, p.problem, p.action, Severity.ERROR)
                    for p in error.problems
                ]
    try:
        if not findings:
            declared_deliveries()
    except ContractProblems:  # of a contract itself, which its own lint reports
        pass
    except ContractError as error:
        findings.append(_finding(error))
    return findings


def _finding(error: ContractError) -> Finding:
    from ingestion_platform.contract.lint import Finding, Severity

    problem = error.message.removeprefix(f"{error.file}: {error.element}: ")
    return Finding(error.file, error.element, problem, error.action, Severity.ERROR)


def declared_contracts() -> list[Path]:
    """The contract files of all declared streams, and those that no stream has declared yet."""
    from ingestion_platform.streams import folders

    return [file for folder in folders() for file in sorted(folder.glob("*/*.odcs.yaml"))]


@app.command()
def plan(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Newest stored records to validate per stream; 0 for none.")
    ] = _SAMPLE,
    all_records: Annotated[
        bool, typer.Option("--all-records", help="Validate all stored records.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what changed contracts change in the tables, and for the records stored there.

    Stored records that another contract validated are validated again: how
    many would leave bronze or quarantine, and why. `ingest revalidate` does it.

    Changes nothing. Exits with 1 if a table cannot follow without losing data,
    or a stream cannot be read; the others are shown.

    [dim]Examples:[/]
      ingest contract plan pgr_events
      ingest contract plan pgr_events --all-records
      ingest contract plan --all --json
    """
    from ingestion_platform.each import for_each, results
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    platform = Platform(Settings.load())
    wanted = chosen(streams, everything=everything)
    most = None if all_records else sample
    attempts = list(for_each(lambda stream: _planned(platform, stream, most), wanted))
    if as_json:
        terminal.json([_plan_dict(of) for of in attempts])
    for planned in () if as_json else results(attempts):
        _show_plan(terminal, planned)
    finish(terminal, attempts)
    if any(planned["rejected"] for planned in results(attempts)):
        raise typer.Exit(1)


def _plan_dict(of: Attempt[Stream, dict[str, Any]]) -> dict[str, Any]:
    known: dict[str, Any] = {"stream": of.item.name, "steps": [], "rejected": [], "impact": None}
    return {**(of.found or known), "error": error_dict(of.error)}


def _planned(platform: Platform, stream: Stream, most: int | None) -> dict[str, Any]:
    """Return the steps of one stream's table and their impact, or why there can be none."""
    from dataclasses import asdict

    from ingestion_platform.contract.problems import ContractProblems
    from ingestion_platform.operations.impact import impact_of
    from ingestion_platform.warehouse.evolve import plan as steps
    from ingestion_platform.warehouse.tables import load_or_none

    table = load_or_none(platform.catalog, stream.bronze_table)
    about = {"stream": stream.name, "table": stream.bronze_table, "new": table is None}
    try:
        planned = () if table is None else steps(table, stream.contract)
    except ContractProblems as error:
        return {
            **about,
            "steps": [],
            "rejected": [asdict(p) for p in error.problems],
            "impact": None,
        }
    impact = None if table is None else impact_of(platform, stream, most=most).as_dict()
    told = [asdict(step) | {"text": str(step)} for step in planned]
    return {**about, "steps": told, "rejected": [], "impact": impact}


def _show_plan(terminal: Terminal, planned: dict[str, Any]) -> None:
    status, said = "ok", "follows its contract"
    if planned["rejected"]:
        status, said = "fail", "cannot follow its contract"
    elif planned["steps"]:
        status, said = "warn", "will be changed by the next load"
    elif planned["new"]:
        said = "will be made by the first load"
    terminal.out.print(f"{mark(status)} {planned['table']} {said}", soft_wrap=True)
    for step in planned["steps"]:
        terminal.out.print(f"     {literal(step['text'])}", soft_wrap=True)
    for problem in planned["rejected"]:
        terminal.out.print(
            f"     {literal(problem['element'])}: {literal(problem['problem'])}\n"
            f"     [cyan]->[/] {literal(problem['action'])}",
            soft_wrap=True,
        )
    if planned["impact"] is not None:
        _show_impact(terminal, planned["stream"], planned["impact"])


def _show_impact(terminal: Terminal, stream: str, impact: dict[str, Any]) -> None:
    for column, rows in impact["dropped"].items():
        terminal.out.print(
            f"     {literal(column)} is not in the contract: the column stays and is null in new "
            f"rows; {count(rows)} rows have a value until they are validated again",
            soft_wrap=True,
        )
    if not impact["stale"]:
        return
    part = "" if impact["checked"] == impact["stale"] else " newest"
    terminal.out.print(
        f"     {count(impact['stale'])} stored records were validated by an earlier contract; of "
        f"the {count(impact['checked'])}{part} ones:",
        soft_wrap=True,
    )
    for name, what in (("rejected", "leave bronze"), ("returned", "leave quarantine")):
        terminal.out.print(f"     {count(impact[name])} {what}")
        for reason, times in list(impact[f"{name}_by_reason"].items())[:_REASONS]:
            terminal.out.print(f"       {count(times):>8} x {literal(reason)}", soft_wrap=True)
    terminal.out.print(
        f"     [cyan]->[/] ingest revalidate {literal(stream)} --all-stale", soft_wrap=True
    )


@app.command()
def export(
    ctx: typer.Context,
    names: StreamNames = None,
    form: Annotated[
        Format, typer.Option("--format", help="JSON Schema 2020-12, AsyncAPI 3.0 or Markdown.")
    ] = Format.JSON_SCHEMA,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write files there. Default: standard output."
        ),
    ] = None,
) -> None:
    """Write what follows from contracts: schemas, a description of the topics, pages.

    Without streams: of all declared ones, for Markdown with an index.

    [dim]Examples:[/]
      ingest contract export pgr_events
      ingest contract export --format asyncapi --output build
      ingest contract export --format markdown --output docs
    """
    from ingestion_platform.contract.export import documents
    from ingestion_platform.streams import declared_streams, select

    terminal: Terminal = ctx.obj
    declared = declared_streams()
    streams = select(declared, dict.fromkeys(names or declared))
    if output is None and form is not Format.ASYNCAPI and len(streams) != 1:
        problem = "there is a document for each stream; give a folder, or name one stream"
        raise typer.BadParameter(problem, param_hint="--output")
    complete = output is not None and not names
    contracts = list(map(published, streams))
    exported = documents(form, contracts, complete=complete)
    if complete and form is Format.MARKDOWN:
        exported |= _domain_pages(contracts)
    if output is not None:
        for path, text in exported.items():
            file = output / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        terminal.say(f"{len(exported)} file{'s' * (len(exported) != 1)} in {literal(str(output))}")
        return
    typer.echo("".join(exported.values()), nl=False)


def _domain_pages(contracts: list[Published]) -> dict[str, str]:
    """Return the documents that domains add by their `pages.py`, as text by file name."""
    from ingestion_platform import plugins

    pages: dict[str, str] = {}
    for domain in dict.fromkeys(each.domain for each in contracts):
        for module in plugins.modules("pages", domain):
            pages |= module.pages([each for each in contracts if each.domain == domain])
    return pages


def published(stream: Stream) -> Published:
    """A stream's contract with its sources and tables, as the exporters take it."""
    from ingestion_platform.contract.export import Published
    from ingestion_platform.lake.names import topic_folder

    own = [stream.http.path] if stream.http else []
    return Published(
        contract=stream.contract,
        stream=stream.name,
        domain=stream.domain,
        topic=stream.topic if stream.kafka else None,
        group_id=stream.group_id,
        partitions=stream.partitions,
        key=stream.key_field if stream.kafka else None,
        http_paths=(f"/v1/streams/{stream.name}/records", *own) if stream.kafka else (),
        drop_folder=stream.file_source.folder.strip("/"),
        drop_patterns=stream.file_source.patterns,
        drop_format=stream.file_source.format,
        lake_folder=topic_folder(stream.topic),
        bronze_table=stream.bronze_table,
        quarantine_table=stream.quarantine_table,
    )
