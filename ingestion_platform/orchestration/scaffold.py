"""Scaffolding: `dg scaffold defs` declares a stream as `ingest new` does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import dagster as dg
import typer
from pydantic import BaseModel, Field

from ingestion_platform.errors import ContractError
from ingestion_platform.operations.new_stream import NewStream, declare_stream
from ingestion_platform.streams import domain_of


class StreamParameters(BaseModel):
    """The options of `dg scaffold defs` for a stream."""

    sample: Path | None = Field(None, description="Propose a contract from this CSV or JSONL.")
    contract: Path | None = Field(None, description="Take this contract (ODCS) as it is.")
    topic: str | None = Field(None, description="Kafka topic. Default: the name with - for _.")


class StreamScaffolder(dg.Scaffolder[StreamParameters]):
    """Write the contract and the defs.yaml of a stream into a folder of its own.

    The path is DOMAIN/STREAM; a path of one part names both.
    """

    @classmethod
    def get_scaffold_params(cls) -> type[StreamParameters]:
        """Return the options that the command takes."""
        return StreamParameters

    def scaffold(self, request: dg.ScaffoldRequest[StreamParameters]) -> None:
        """Declare the stream that the last part of the path names.

        Raises:
            typer.BadParameter: the stream cannot be declared; says why and what to do.
        """
        target = request.target_path
        domain = domain_of(target)
        root = target.parent if domain == target.name else target.parents[1]
        given = request.params
        new = NewStream(target.name, given.sample, given.contract, domain, given.topic)
        try:
            declared = declare_stream(new, root, folder=lambda _: target)
        except ContractError as error:
            with suppress(OSError):  # dg made it, maybe for nothing
                target.rmdir()
            raise typer.BadParameter(str(error)) from error
        for note in declared.notes:
            typer.echo(note)
        typer.echo(f"Next: ingest contract lint {declared.contract_file}")
