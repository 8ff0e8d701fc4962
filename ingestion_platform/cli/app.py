"""The Typer application: global options, list of commands, exit codes of errors."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ingestion_platform import logs
from ingestion_platform.cli import (
    alarm,
    broker,
    contract,
    deliver,
    demo,
    dev,
    doctor,
    env,
    load,
    maintenance,
    metrics,
    new,
    produce,
    quarantine,
    query,
    revalidate,
    run,
    serve,
    status,
    stream,
    verify,
)
from ingestion_platform.cli.outcomes import FAILED, INTERRUPTED, exit_code
from ingestion_platform.cli.terminal import Terminal
from ingestion_platform.errors import PlatformError, SettingError


class Commands(TyperGroup):
    """The commands in the order of a first visit; an error becomes a message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; show tracebacks only with --debug."""
        try:
            return super().invoke(ctx)
        except PlatformError as error:
            _terminal(ctx).error(error)
            raise typer.Exit(exit_code([error])) from error
        except KeyboardInterrupt as interrupt:
            _terminal(ctx).say("interrupted")
            raise typer.Exit(INTERRUPTED) from interrupt
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            terminal = _terminal(ctx)
            if terminal.debug or _is_typers(error):
                raise
            hint = "run `ingest --debug ...` for the traceback; please report it"
            unexpected = PlatformError(f"{type(error).__name__}: {error}", action=hint)
            terminal.error(unexpected)
            raise typer.Exit(FAILED) from error


def _terminal(ctx: Any) -> Terminal:
    return ctx.obj if isinstance(ctx.obj, Terminal) else Terminal()


def _is_typers(error: Exception) -> bool:
    # typer.Exit and Abort are RuntimeErrors, and a reader who left (`| head`) an OSError.
    return isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError))


app = typer.Typer(
    name="ingest",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from ingestion_platform import __version__

        typer.echo(f"ingest {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no remarks; results only.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From Kafka topics to a raw lake, typed Iceberg tables and dbt models, exactly once.

    Without settings everything runs embedded, in the folder .platform.
    KAFKA_BOOTSTRAP_SERVERS, LAKE_URL and PYICEBERG_CATALOG__LAKEHOUSE__*
    point it at real servers.

    [dim]First:[/] ingest demo    [dim]Then:[/] ingest status, ingest query "show all tables"
    """
    if not {"--help", "-h"} & {*sys.argv}:  # help must not wait for imports
        _prepare()
    ctx.obj = Terminal(quiet=quiet, debug=debug)


def _prepare() -> None:
    from ingestion_platform.settings import Settings, keep_freed_memory

    keep_freed_memory()
    with suppress(SettingError):  # the command reports it
        logs.configure(Settings.load(), level="WARNING")


app.command("demo")(demo.demo)
app.command("dev")(dev.dev)
app.add_typer(broker.app, name="broker")
app.command("new")(new.new)
app.command("produce")(produce.produce)
app.command("run")(run.run)
app.command("stream")(stream.stream)
app.command("load")(load.load)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("metrics")(metrics.metrics)
app.command("verify")(verify.verify)
app.command("revalidate")(revalidate.revalidate)
app.add_typer(quarantine.app, name="quarantine")
app.command("deliver")(deliver.deliver)
app.command("maintain")(maintenance.maintenance)
app.command("query")(query.query)
app.command("env")(env.env)
app.command("doctor")(doctor.doctor)
app.add_typer(alarm.app, name="alarm")
app.add_typer(contract.app, name="contract")
