"""The command line of the servers: `python -m services up|env|status|logs|down`.

Exit codes: 0 done, 1 an error, 2 wrong use, 3 the machine lacks something.
"""

import argparse
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from services.errors import ServiceError, Unavailable
from services.manager import Services
from services.registry import DEFAULT, REGISTRY


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; SystemExit(2) for wrong use."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    command: Callable[[Services, argparse.Namespace], int] = options.command
    try:
        return command(Services(options.dir), options)
    except ExceptionGroup as group:
        return max(map(_report, group.exceptions), key=(0, 3, 1).index)
    except (ServiceError, OSError) as error:
        return _report(error)


def _report(error: Exception) -> int:
    if not isinstance(error, ServiceError | OSError):
        raise error
    print(f"error: {error}", file=sys.stderr)
    return 3 if isinstance(error, Unavailable) else 1


def _up(services: Services, options: argparse.Namespace) -> int:
    services.up(options.names or DEFAULT)
    return 0


def _down(services: Services, options: argparse.Namespace) -> int:
    services.down(options.names or None, purge=options.purge)
    return 0


def _env(services: Services, options: argparse.Namespace) -> int:
    variables = services.env()
    if not variables:
        print(f"error: nothing runs in {services.directory}; next: `up`", file=sys.stderr)
        return 1
    for key, value in variables.items():
        print(f"export {key}={shlex.quote(value)}" if options.export else f"{key}={value}")
    return 0


def _status(services: Services, options: argparse.Namespace) -> int:
    states = services.status()
    if options.json:
        print(json.dumps([asdict(state) for state in states], default=str, indent=2))
        return 0
    for state in states:
        ports = " ".join(f"{role}={port}" for role, port in state.ports.items())
        print(f"{state.name:<14}{state.state:<10}{state.pid or '-':<9}{ports}".rstrip())
    return 0


def _logs(services: Services, options: argparse.Namespace) -> int:
    path = services.log_file(options.name)
    if not path.exists():
        action = f"`up {options.name}`"
        raise ServiceError(options.name, "there is no log yet", action, file=path)
    try:
        with path.open("rb") as log:
            shutil.copyfileobj(log, sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`head`) has seen enough; keep the interpreter from flushing once more.
        sys.stdout = None
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, default=Path(".services"), help="data folder")
    parser = argparse.ArgumentParser(prog="python -m services", description="real servers")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action: Callable[..., int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(command=action)
        return added

    up = command("up", _up, "install and start servers, return when they are ready")
    up.add_argument("names", nargs="*", type=_name, metavar="NAME", help=", ".join(REGISTRY))
    env = command("env", _env, "print the variables that point the platform at the servers")
    env.add_argument("--export", action="store_true", help="as shell commands")
    status = command("status", _status, "print how each server is")
    status.add_argument("--json", action="store_true")
    logs = command("logs", _logs, "print a server's log")
    logs.add_argument("name", type=_name, metavar="NAME")
    down = command("down", _down, "end the servers that were started here")
    down.add_argument("names", nargs="*", type=_name, metavar="NAME")
    down.add_argument("--purge", action="store_true", help="remove their data too")
    return parser


def _name(text: str) -> str:
    if text not in REGISTRY:
        raise argparse.ArgumentTypeError(f"no such service; choose from {', '.join(REGISTRY)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
