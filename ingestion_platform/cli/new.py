"""`ingest new`: declare a stream, with a given contract or one proposed from a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingestion_platform.cli.terminal import Terminal, literal
from ingestion_platform.project import how_to


def new(
    ctx: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Name of the new stream.")],
    sample: Annotated[
        Path | None,
        typer.Option("--from", metavar="SAMPLE", help="Propose a contract from this CSV or JSONL."),
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option("--contract", metavar="FILE", help="Use this contract (ODCS)."),
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

    From a sample, types, required fields, a key and a partition are proposed;
    the descriptions of fields are left to you. Overwrites no file.

    [dim]Examples:[/]
      ingest new shop_orders --from orders.jsonl
      ingest new shop_orders --contract orders.odcs.yaml --domain shop --topic orders
    """
    terminal: Terminal = ctx.obj
    if (sample is None) == (contract is None):
        raise typer.BadParameter("give a sample or a contract", param_hint="--from, --contract")
    from ingestion_platform.operations.new_stream import NewStream, declare_stream
    from ingestion_platform.settings import own_definitions
    from ingestion_platform.streams import DOMAINS_FOLDER

    requested = NewStream(stream, sample, contract, domain, topic)
    declared = declare_stream(requested, domains or own_definitions() or DOMAINS_FOLDER)
    for note in declared.notes:
        terminal.say(literal(note))
    _print_next_steps(
        terminal, declared.contract_file, stream, requested.topic_name, sample, foreign=domains
    )


def _print_next_steps(
    terminal: Terminal,
    target: Path,
    stream: str,
    topic: str,
    sample: Path | None,
    *,
    foreign: Path | None,
) -> None:
    """Print where the stream is declared, and what to do next."""
    terminal.out.print(literal(str(target)), soft_wrap=True)
    terminal.say(f"[green]declared[/] {stream} (topic {topic}). Next:")
    steps = [
        (f"ingest contract lint {target}", "and write what is missing"),
        (f"ingest load {stream} {sample or 'FILE'} --dry-run", "what would be loaded"),
        (f"ingest load {stream} {sample or 'FILE'}", "files into lake and bronze"),
        (f"ingest run {stream}", f"the records of topic {topic}"),
        (f"ingest verify {stream}", "every record is there, exactly once"),
        (how_to("dev"), "its assets in Dagster"),
    ]
    if foreign is not None:
        steps.insert(
            0, (f"export PLATFORM_DOMAINS={foreign.resolve()}", "so that the stream is found")
        )
    for command, why in steps:
        terminal.say(f"  {literal(command)}  [dim]{literal(why)}[/]")
