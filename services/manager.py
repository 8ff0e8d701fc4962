"""The set of servers of one data folder: starting, probing and ending them.

What is particular to a server is in its own module; the command line is in `__main__`.
"""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from services import processes
from services.errors import ServiceError, Unavailable, UnknownService
from services.files import locked, tail
from services.net import free_port, port_is_free, wait_until
from services.registry import DEFAULT, REGISTRY
from services.service import Record, Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """How one service is: `ready`, `starting` (runs, does not answer yet), `stopped`, `absent`."""

    name: str
    state: str
    pid: int | None
    ports: dict[str, int]
    log: Path


class Services:
    """The servers of one data folder; independent of those of any other folder.

    As a context manager it ends them on leaving and keeps their data. Methods that start
    or end several servers do so in parallel and raise the one error, or an ExceptionGroup of
    several after all were tried.
    """

    def __init__(self, directory: str | Path = ".services") -> None:
        """Bind to a data folder, which is created by the first `up`."""
        self.directory = Path(directory).absolute()

    def __enter__(self) -> "Services":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all servers of the folder and keep their data."""
        self.down()

    def up(self, names: Iterable[str] = DEFAULT) -> None:
        """Install and start what does not run yet, and what it needs; return when all answer.

        Raises Unavailable when the machine lacks a prerequisite, UnknownService for a wrong
        name, ServiceError with the end of the server's log when it does not come up.
        """
        for together in _in_order(self._known(names)):
            _for_each(together, self.start)

    def down(self, names: Iterable[str] | None = None, *, purge: bool = False) -> None:
        """End the named servers (default: all of the folder); `purge` removes their data too.

        Raises ServiceError when a server does not end.
        """
        chosen = self._known(REGISTRY if names is None else names)
        _for_each(chosen, self._purge if purge else self.stop)
        if purge and self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def start(self, name: str) -> None:
        """Start one server, on the ports and with the data that it had; raises as `up` does.

        What it needs must run.
        """
        with self._opened(name) as service:
            self._look_around(service)
            if _runs(service):
                _await_ready(service)
            else:
                self._launch(service)

    def stop(self, name: str) -> None:
        """End one server in an orderly way, by force after a grace time; ServiceError if it stays.

        Does nothing when it does not run.
        """
        if not self._folder(name).is_dir():
            return
        with self._opened(name) as service:
            self._stop(service)

    def kill(self, name: str) -> None:
        """Kill one server and its descendants without warning; ServiceError if they stay.

        Does nothing when it does not run.
        """
        if not self._folder(name).is_dir():
            return
        with self._opened(name) as service:
            if service.record.process:
                self._ended(service, processes.kill(service.record.process))

    def restart(self, name: str) -> None:
        """Stop and start one server on the same ports with its data; raises as they do."""
        self.stop(name)
        self.start(name)

    def env(self) -> dict[str, str]:
        """Return the variables that point the platform at the servers that run now."""
        services = [service for service in map(self._service, REGISTRY) if _runs(service)]
        running = frozenset(service.name for service in services)
        return {k: v for service in services for k, v in service.settings(running).items()}

    def status(self) -> list[Status]:
        """Return how every known service is; asks those that run."""
        return [_status(self._service(name)) for name in REGISTRY]

    def log_file(self, name: str) -> Path:
        """Return where the server's output goes; UnknownService for a wrong name."""
        return self._service(name).log_file

    def _known(self, names: Iterable[str]) -> list[str]:
        chosen = list(dict.fromkeys(names))
        for name in chosen:
            self._folder(name)
        return chosen

    def _folder(self, name: str) -> Path:
        if name not in REGISTRY:
            raise UnknownService(name, "no such service", f"choose from {', '.join(REGISTRY)}")
        return self.directory / name

    def _state_file(self, name: str) -> Path:
        return self._folder(name) / "state.json"

    def _lock_file(self, name: str) -> Path:
        return self.directory / f"{name}.lock"

    def _service(self, name: str) -> Service:
        path = self._state_file(name)
        try:
            record = Record.read(path)
        except (ValueError, TypeError, KeyError) as error:
            action = "end the server yourself, remove its folder and run `up` again"
            raise ServiceError(name, f"unreadable state: {error}", action, file=path) from error
        return REGISTRY[name](self._folder(name), record)

    @contextmanager
    def _opened(self, name: str) -> Iterator[Service]:
        """Hold the service against other threads and processes; keep its record afterwards."""
        folder = self._folder(name)
        if not processes.supported():
            raise Unavailable(name, "Linux's /proc", "use the compose stack instead")
        with locked(self._lock_file(name)):
            folder.mkdir(exist_ok=True)
            service = self._service(name)
            try:
                yield service
            finally:
                self._save(service)

    def _save(self, service: Service) -> None:
        service.record.write(self._state_file(service.name))

    def _look_around(self, service: Service) -> None:
        missing = [name for name in service.needs if not _runs(self._service(name))]
        if missing:
            action = f"`up {service.name}` starts them too"
            raise ServiceError(service.name, f"needs {' and '.join(missing)} to run", action)
        service.around = self.env() if service.needs else {}

    def _launch(self, service: Service) -> None:
        service.install()
        _settle(service)
        # Before anything exists that could not be found again.
        self._save(service)
        began = time.monotonic()
        try:
            service.record.process = service.start()
            self._save(service)
            _await_ready(service)
        except OSError as error:
            raise service.error(f"cannot start: {error}", "look at the named file") from error
        except ServiceError:
            if service.record.process:
                self._ended(service, processes.kill(service.record.process))
            raise
        logger.info("%s: ready after %.1f s", service.name, time.monotonic() - began)

    def _stop(self, service: Service) -> None:
        process = service.record.process
        if process:
            gone = processes.end(process, service.stop_signal, service.stop_grace_s)
            self._ended(service, gone)

    def _ended(self, service: Service, gone: bool) -> None:
        if not gone:
            pid = service.record.process and service.record.process.pid
            raise service.error(f"process {pid} does not end", "look at what holds it, then `down`")
        service.record.process = None
        logger.info("%s: ended", service.name)

    def _purge(self, name: str) -> None:
        if not self._folder(name).is_dir():
            return
        with locked(self._lock_file(name)):
            service = self._service(name)
            self._stop(service)
            service.remove_outside_data()
            shutil.rmtree(service.folder)
            self._lock_file(name).unlink()


def _in_order(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the names, and those that they need, so that each comes after what it needs."""
    todo = set(names)
    while more := {need for name in todo for need in REGISTRY[name].needs} - todo:
        todo |= more
    while todo:
        together = [n for n in REGISTRY if n in todo and not todo.intersection(REGISTRY[n].needs)]
        yield together
        todo.difference_update(together)


def _runs(service: Service) -> bool:
    return service.record.process is not None and processes.alive(service.record.process)


_ENDED = "the server ended while starting"


def _await_ready(service: Service) -> None:
    deadline = time.monotonic() + service.start_timeout_s
    while obstacle := _obstacle(service):
        if not _runs(service):  # perhaps only since it was asked
            obstacle = _ENDED
        if obstacle == _ENDED or time.monotonic() >= deadline:
            action = f"read its log, then `down {service.name}` and `up {service.name}`"
            raise service.error(obstacle, action, tail(service.log_file))
        time.sleep(0.05)


def _obstacle(service: Service) -> str:
    """Return what keeps the server from being used, "" when nothing does."""
    if not _runs(service):
        return _ENDED
    if not service.ready():
        return f"the server does not answer within {service.start_timeout_s:.0f} s"
    try:
        service.prepare()
    except OSError as error:
        return f"the server refuses requests: {error}"
    return ""


def _settle(service: Service) -> None:
    """Give the server its ports and secrets, those that it had wherever possible."""
    record = service.record
    for role in service.port_names:
        port = record.ports.get(role)
        if port is None or not wait_until(partial(port_is_free, port), 5):
            record.ports[role] = free_port(record.ports.values())
            if port:
                logger.warning("%s: port %d is taken, moved on", service.name, port)
    for role in service.secret_names:
        record.secrets.setdefault(role, secrets.token_hex(16))


def _status(service: Service) -> Status:
    process = service.record.process
    if not service.folder.is_dir():
        state, pid = "absent", None
    elif process is None or not processes.alive(process):
        state, pid = "stopped", None
    else:
        state, pid = ("ready" if service.ready() else "starting"), process.pid
    return Status(service.name, state, pid, service.record.ports, service.log_file)


def _for_each(names: list[str], action: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        futures = [pool.submit(action, name) for name in names]
    failures = [error for future in futures if (error := future.exception())]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup("several services failed", failures)
