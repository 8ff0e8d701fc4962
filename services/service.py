"""What every service is made of: its record on disk and the interface that it implements.

Locking, order and waiting are the manager's; the particular servers have a module each.
"""

import json
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from services.errors import ServiceError
from services.files import write_private
from services.processes import Identity, group_of, spawn


@dataclass
class Record:
    """What is kept about one service between commands, in a file that only its owner can read."""

    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    process: Identity | None = None

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Return the record kept at `path`, an empty one when there is none.

        Raises ValueError when the file is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        process = content.pop("process")
        return cls(**content, process=Identity(**process) if process else None)

    def write(self, path: Path) -> None:
        """Replace the record kept at `path`; OSError when the folder is not writable."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


class Service(ABC):
    """One server: how to install, start, probe and use it."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    secret_names: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    """Services that must run before it starts."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_timeout_s: ClassVar[float] = 90
    stop_grace_s: ClassVar[float] = 20

    def __init__(self, folder: Path, record: Record) -> None:
        """Bind the service to its own folder and to what is recorded about it."""
        self.folder = folder
        self.record = record
        self.around: dict[str, str] = {}
        """The variables of what runs beside it, known when it is started."""

    @property
    def log_file(self) -> Path:
        """The file that the server's output is appended to."""
        return self.folder / "server.log"

    @abstractmethod
    def install(self) -> None:
        """Bring what is missing into the cache.

        Raises Unavailable when this machine lacks a prerequisite, ServiceError when installing
        fails.
        """

    @abstractmethod
    def start(self) -> Identity:
        """Write configuration and initial data where missing, and start the server.

        Raises ServiceError when its data cannot be prepared, OSError when it cannot be executed.
        """

    @abstractmethod
    def ready(self) -> bool:
        """Say whether the server answers in its own protocol."""

    def prepare(self) -> None:  # noqa: B027  (most services have nothing to prepare)
        """Create what users expect inside the ready server; OSError asks to be called again."""

    @abstractmethod
    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return the variables that point the platform at the server, given what else runs."""

    def remove_outside_data(self) -> None:
        """Remove data that had to be placed outside the service's folder."""
        for place in self.record.places.values():
            shutil.rmtree(place, ignore_errors=True)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: str | None = None,
    ) -> Identity:
        """Start the server detached, by default in its folder; OSError when that is impossible."""
        environment = dict(os.environ if env is None else env)
        where = folder or self.folder
        return spawn(argv, log=self.log_file, folder=where, env=environment, user=user)

    def error(self, problem: str, next_action: str, detail: str = "") -> ServiceError:
        """Return an error that names this service and its log."""
        return ServiceError(self.name, problem, next_action, file=self.log_file, detail=detail)


def run_tool(
    service: str,
    argv: Sequence[str],
    next_action: str,
    *,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    user: str | None = None,
    stdin: str = "",
) -> str:
    """Run an installer or administration tool to its end and return what it wrote.

    Raises ServiceError with the last lines of its output when it fails.
    """
    environment = dict(os.environ if env is None else env)
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
            cwd=folder,
            user=user,
            group=group_of(user),
            extra_groups=None if user is None else [],
            check=False,
        )
    except OSError as error:
        raise ServiceError(service, f"cannot run {argv[0]}: {error}", next_action) from error
    if done.returncode:
        detail = "\n".join(done.stdout.splitlines()[-25:])
        problem = f"{Path(argv[0]).name} ended with code {done.returncode}"
        raise ServiceError(service, problem, next_action, detail=detail)
    return done.stdout
