"""PostgreSQL: one server with the database of the Iceberg catalog, reached by password over TCP.

Tables and further databases are the platform's business.
"""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.accounts import account, give, reachable_folder
from services.errors import Unavailable
from services.minio import BUCKET
from services.net import LOOPBACK
from services.processes import Identity
from services.service import Service, run_tool

logger = logging.getLogger(__name__)

_PROGRAMS = ("initdb", "postgres", "psql")
_DEBIAN_FOLDERS = "usr/lib/postgresql/*/bin"
_DEBIAN_CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")
_USER = "ingestion"
_DATABASE = "lakehouse"


class Postgres(Service):
    """One PostgreSQL server; run by an unprivileged account when the caller is root."""

    name = "postgres"
    port_names = ("sql",)
    secret_names = ("password",)
    # The polite signal waits for clients to leave; this one disconnects them and shuts down.
    stop_signal = signal.SIGINT

    def install(self) -> None:
        """Find an installed server, or install Debian's package when run by root.

        Raises Unavailable when there is neither a server nor a way to install one.
        """
        if _find_programs() is None:
            _install_package()
        _programs()

    def start(self) -> Identity:
        """Initialise the data folder the first time and start the server."""
        data = self._data_folder()
        if not data.is_dir():
            self._initialise(data)
        options = {
            "port": self.record.ports["sql"],
            "listen_addresses": LOOPBACK,
            # No socket file: paths to test folders are longer than a socket's path may be.
            "unix_socket_directories": "",
            "timezone": "UTC",
            "fsync": "on",
        }
        settings = [word for k, v in options.items() for word in ("-c", f"{k}={v}")]
        argv = [str(_programs() / "postgres"), "-D", str(data), *settings]
        return self.spawn(argv, env=_environment(), folder=data.parent, user=account())

    def ready(self) -> bool:
        """Say whether the server answers a query in the catalog's database."""
        programs = _find_programs()
        if programs is None:
            return False
        where = ["-h", LOOPBACK, "-p", str(self.record.ports["sql"]), "-U", _USER, "-d", _DATABASE]
        environment = _environment() | {
            "PGPASSWORD": self.record.secrets["password"],
            "PGCONNECT_TIMEOUT": "2",
        }
        done = subprocess.run(
            [str(programs / "psql"), "-X", "-w", "-q", *where, "-c", "select 1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
        return done.returncode == 0

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return PyIceberg's catalog; its warehouse only when the object store runs too."""
        login = f"{_USER}:{self.record.secrets['password']}"
        address = f"{LOOPBACK}:{self.record.ports['sql']}"
        catalog = "PYICEBERG_CATALOG__LAKEHOUSE__"
        settings = {
            f"{catalog}TYPE": "sql",
            f"{catalog}URI": f"postgresql+psycopg://{login}@{address}/{_DATABASE}",
        }
        if "minio" in running:
            settings[f"{catalog}WAREHOUSE"] = f"s3://{BUCKET}/warehouse"
        return settings

    def _data_folder(self) -> Path:
        """Return the data folder, outside the service's folder if the account cannot get there."""
        return reachable_folder(self.folder, self.record, self.name, "cluster") / "data"

    def _initialise(self, data: Path) -> None:
        """Create the cluster aside and rename it, so that a broken attempt leaves nothing."""
        aside = data.with_name("unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        action = "read the lines below, then `down --purge postgres` and `up postgres`"
        with self._password_file(data.parent) as password:
            self._administer(
                [
                    *("initdb", "-D", str(aside), "-U", _USER, f"--pwfile={password}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"),
                ],
                action,
            )
        command = f"CREATE DATABASE {_DATABASE};\n"
        single_user = ["postgres", "--single", "-D", str(aside), "postgres"]
        output = self._administer(single_user, action, command)
        if "ERROR" in output:
            raise self.error(f"cannot create the database {_DATABASE}", action, output)
        aside.rename(data)

    def _administer(self, argv: list[str], action: str, stdin: str = "") -> str:
        program = str(_programs() / argv[0])
        return run_tool(
            self.name,
            [program, *argv[1:]],
            action,
            env=_environment(),
            folder=self._data_folder().parent,
            user=account(),
            stdin=stdin,
        )

    @contextmanager
    def _password_file(self, folder: Path) -> Iterator[Path]:
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(self.record.secrets["password"])
            give(Path(name), account())
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Return the caller's environment without what would redirect the server or its tools."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")}


def _programs() -> Path:
    programs = _find_programs()
    if programs is None:
        raise Unavailable(
            "postgres",
            f"a PostgreSQL server ({', '.join(_PROGRAMS)})",
            "install PostgreSQL 14 or newer and put its programs on PATH",
        )
    return programs


def _find_programs() -> Path | None:
    """Return the folder that holds the server and its tools, the newest Debian one first."""
    folders = sorted(Path("/").glob(_DEBIAN_FOLDERS), key=_version, reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    complete = (f for f in folders if all(os.access(f / p, os.X_OK) for p in _PROGRAMS))
    return next(complete, None)


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


def _install_package() -> None:
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return
    logger.info("postgres: installing Debian's package")
    if not _DEBIAN_CLUSTERS.parent.exists():
        # The package would otherwise create and start a cluster of its own.
        _DEBIAN_CLUSTERS.parent.mkdir()
        _DEBIAN_CLUSTERS.write_text("create_main_cluster = false\n", encoding="ascii")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    action = "read the lines below, or install PostgreSQL yourself and put it on PATH"
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        run_tool("postgres", [apt, *wait, *arguments], action, env=environment)
