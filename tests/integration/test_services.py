"""The native servers really start, survive a crash with their data, and end; nothing else does.

What the platform does with them is tested elsewhere.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow.fs
import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from services import (
    ServiceError,
    Services,
    Unavailable,
    UnknownService,
    files,
    manager,
    processes,
)
from services.net import free_port, port_is_free, wait_until
from services.postgres import Postgres
from services.registry import REGISTRY
from services.service import Record

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
ALL = ["kafka", "minio", "postgres"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """All three servers, in a folder that only its owner may enter."""
    services = Services(tmp_path_factory.mktemp("services") / "data")
    try:
        services.up(ALL)
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that the services did not start."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def command_line(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m services` with the given words and changes to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "services", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def bucket_of(env: dict[str, str]) -> pyarrow.fs.FileSystem:
    """Open the bucket as a user of the printed settings would."""
    store = pyarrow.fs.S3FileSystem(
        access_key=env["AWS_ACCESS_KEY_ID"],
        secret_key=env["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=env["AWS_ENDPOINT_URL"],
        region=env["AWS_REGION"],
    )
    return pyarrow.fs.SubTreeFileSystem("bucket-0", store)


def database_of(env: dict[str, str]) -> str:
    """Return the address of the catalog's database for psycopg."""
    return env["PYICEBERG_CATALOG__LAKEHOUSE__URI"].replace("+psycopg", "")


def produce(env: dict[str, str], topic: str, values: list[str]) -> None:
    """Send the values and wait until the broker has acknowledged all."""
    producer = Producer({"bootstrap.servers": env["KAFKA_BOOTSTRAP_SERVERS"]})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(env: dict[str, str], topic: str, count: int) -> list[str]:
    """Read `count` values from the beginning of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": env["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": topic,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found: list[str] = []

    def enough() -> bool:
        for message in consumer.consume(count, timeout=0.5):
            if message.error():
                raise KafkaException(message.error())
            found.append((message.value() or b"").decode())
        return len(found) >= count

    try:
        wait_until(enough, 30)
    finally:
        consumer.close()
    return sorted(found)


def crash_and_start(servers: Services, name: str) -> None:
    """Kill the server without warning and start it again, on the same ports."""
    before = servers.env()
    servers.kill(name)
    assert state(servers, name) == "stopped"
    servers.start(name)
    assert servers.env() == before


def state(servers: Services, name: str) -> str:
    """Return how the named server is."""
    return next(status.state for status in servers.status() if status.name == name)


def record_file(servers: Services, name: str) -> Path:
    """Return where the state of a service is kept."""
    return servers.directory / name / "state.json"


def test_all_three_are_ready(servers: Services) -> None:
    assert {name: state(servers, name) for name in ALL} == dict.fromkeys(ALL, "ready")
    reported = command_line("status", "--json", "--dir", str(servers.directory))
    states = {entry["name"]: entry["state"] for entry in json.loads(reported.stdout)}
    assert states == dict.fromkeys(REGISTRY, "absent") | dict.fromkeys(ALL, "ready")


def test_env_names_every_setting_once(servers: Services) -> None:
    printed = command_line("env", "--dir", str(servers.directory)).stdout
    env = dict(line.split("=", 1) for line in printed.splitlines())
    assert env == servers.env()
    assert set(env) == {
        "KAFKA_BOOTSTRAP_SERVERS",
        "LAKE_URL",
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "PYICEBERG_CATALOG__LAKEHOUSE__TYPE",
        "PYICEBERG_CATALOG__LAKEHOUSE__URI",
        "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE",
        "PYICEBERG_CATALOG__LAKEHOUSE__S3__ENDPOINT",
        "PYICEBERG_CATALOG__LAKEHOUSE__S3__ACCESS_KEY_ID",
        "PYICEBERG_CATALOG__LAKEHOUSE__S3__SECRET_ACCESS_KEY",
        "PYICEBERG_CATALOG__LAKEHOUSE__S3__REGION",
    }
    assert env["LAKE_URL"] == "s3://bucket-0/master_dataset"


def test_exported_env_is_a_shell_script(servers: Services) -> None:
    printed = command_line("env", "--export", "--dir", str(servers.directory)).stdout
    shown = subprocess.run(
        ["sh", "-c", f'{printed}\nprintf %s "$PYICEBERG_CATALOG__LAKEHOUSE__URI"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == servers.env()["PYICEBERG_CATALOG__LAKEHOUSE__URI"]


def test_up_again_keeps_the_processes(servers: Services) -> None:
    before = servers.status()
    assert command_line("up", "--dir", str(servers.directory)).returncode == 0
    assert servers.status() == before


def test_secrets_are_the_owners_only(servers: Services) -> None:
    for name in ALL:
        assert stat.S_IMODE(record_file(servers, name).stat().st_mode) == 0o600
    status = command_line("status", "--json", "--dir", str(servers.directory)).stdout
    for name in ALL:
        logs = command_line("logs", name, "--dir", str(servers.directory)).stdout
        for secret in Record.read(record_file(servers, name)).secrets.values():
            assert secret not in logs
            assert secret not in status


def test_kafka_keeps_its_messages_over_a_crash(servers: Services) -> None:
    values = [f"message {number:03}" for number in range(200)]
    produce(servers.env(), "crash", values[:100])
    crash_and_start(servers, "kafka")
    produce(servers.env(), "crash", values[100:])
    assert consume(servers.env(), "crash", len(values)) == values


def test_minio_keeps_its_objects_over_a_crash(servers: Services) -> None:
    with bucket_of(servers.env()).open_output_stream("folder/object") as stream:
        stream.write(b"content")
    crash_and_start(servers, "minio")
    with bucket_of(servers.env()).open_input_stream("folder/object") as stream:
        assert stream.read() == b"content"


def test_postgres_keeps_its_rows_over_a_crash_with_a_busy_client(servers: Services) -> None:
    with psycopg.connect(database_of(servers.env()), autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
        busy = threading.Thread(target=_sleep_in_the_server, args=[servers.env()])
        busy.start()
        running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'"
        assert wait_until(lambda: connection.execute(running).fetchone() == (1,), 30)
        crash_and_start(servers, "postgres")
        busy.join()
    with psycopg.connect(database_of(servers.env())) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)


def _sleep_in_the_server(env: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError), psycopg.connect(database_of(env)) as connection:
        connection.execute("select pg_sleep(600)")


def test_postgres_asks_for_the_password(servers: Services) -> None:
    address = database_of(servers.env())
    password = Record.read(record_file(servers, "postgres")).secrets["password"]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(address.replace(password, "wrong"))


def test_an_orderly_stop_does_not_wait_for_clients(servers: Services) -> None:
    with psycopg.connect(database_of(servers.env()), autocommit=True) as connection:
        connection.execute("select 1")
        servers.stop("postgres")
    assert state(servers, "postgres") == "stopped"
    env = servers.env()
    assert "PYICEBERG_CATALOG__LAKEHOUSE__URI" not in env
    assert "LAKE_URL" in env
    servers.start("postgres")


def test_restart_keeps_the_ports_and_data(servers: Services) -> None:
    produce(servers.env(), "restart", ["before"])
    before = servers.env()
    servers.restart("kafka")
    assert servers.env() == before
    assert consume(servers.env(), "restart", 1) == ["before"]


def test_two_sets_run_at_once_and_down_ends_only_its_own(servers: Services, tmp_path: Path) -> None:
    with Services(tmp_path) as second:
        second.up(["postgres"])
        assert "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE" not in second.env()
        assert database_of(second.env()) != database_of(servers.env())
        cluster = Path(Record.read(record_file(second, "postgres")).places.get("data", tmp_path))
        assert cluster.is_dir()
        second.down(purge=True)
    assert not cluster.exists()
    assert not tmp_path.exists()
    assert state(servers, "postgres") == "ready"


def test_concurrent_ups_start_one_server(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Services(directory) as services, ThreadPoolExecutor(2) as pool:
        ups = [pool.submit(command_line, "up", "minio", "--dir", str(directory)) for _ in range(2)]
        assert [up.result().returncode for up in ups] == [0, 0]
        assert "".join(up.result().stderr for up in ups).count("ready after") == 1
        services.down(purge=True)


def test_a_recycled_pid_is_not_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    services = Services(tmp_path)
    foreign = processes.identify(sleeper.pid)
    assert foreign is not None
    earlier = processes.Identity(foreign.pid, foreign.started - 1, foreign.boot)
    folder = tmp_path / "minio"
    folder.mkdir()
    Record(process=earlier).write(folder / "state.json")
    assert state(services, "minio") == "stopped"
    services.kill("minio")
    Record(process=earlier).write(folder / "state.json")
    services.down()
    assert sleeper.poll() is None


def test_a_taken_port_is_left_to_its_holder(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.up(["postgres"])
        services.stop("postgres")
        record = Record.read(record_file(services, "postgres"))
        taken = record.ports["sql"]
        with subprocess.Popen(
            [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(taken)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as holder:
            try:
                assert wait_until(lambda: not port_is_free(taken), 30)
                services.start("postgres")
                assert holder.poll() is None
            finally:
                holder.kill()
        assert Record.read(record_file(services, "postgres")).ports["sql"] != taken
        assert state(services, "postgres") == "ready"
        services.down(purge=True)


def test_a_server_that_ends_at_once_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Postgres) -> processes.Identity:
        program = "import sys; sys.exit('no space left')"
        return self.spawn([sys.executable, "-c", program])

    monkeypatch.setattr(Postgres, "start", fail)
    with Services(tmp_path) as services, pytest.raises(ServiceError) as raised:
        services.up(["postgres"])
    assert "postgres: the server ended while starting" in str(raised.value)
    assert "no space left" in raised.value.detail
    assert raised.value.file == tmp_path / "postgres" / "server.log"


def test_a_server_that_never_answers_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[processes.Identity] = []

    def hang(self: Postgres) -> processes.Identity:
        program = "import signal; signal.pause()"
        spawned.append(self.spawn([sys.executable, "-c", program]))
        return spawned[0]

    monkeypatch.setattr(Postgres, "start", hang)
    monkeypatch.setattr(Postgres, "start_timeout_s", 0.5)
    with Services(tmp_path) as services, pytest.raises(ServiceError, match="does not answer"):
        services.up(["postgres"])
    assert not processes.alive(spawned[0])


@pytest.mark.parametrize(("name", "missing"), [("kafka", "Java 17"), ("minio", "Go")])
def test_what_the_machine_lacks_is_named_in_one_line(
    tmp_path: Path, name: str, missing: str
) -> None:
    bare = {"PATH": "", "JAVA_HOME": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = command_line("up", name, "--dir", str(tmp_path / "data"), **bare)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name}: {missing}")
    assert "next: install" in line


def test_unavailable_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(Unavailable) as raised:
        Services(tmp_path).up(["kafka"])
    assert raised.value.service == "kafka"
    assert raised.value.missing.startswith("Java 17")
    assert raised.value.next_action


def test_several_failures_are_all_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ExceptionGroup) as raised:
        Services(tmp_path).up(["kafka", "minio"])
    assert {type(error) for error in raised.value.exceptions} == {Unavailable}


@pytest.mark.parametrize(
    "words", [["up", "cassandra"], ["logs"], ["logs", "cassandra"], ["down", "--wipe"], []]
)
def test_wrong_use_ends_with_two(words: list[str]) -> None:
    assert command_line(*words).returncode == 2


def test_a_wrong_name_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UnknownService, match=f"choose from {', '.join(REGISTRY)}"):
        Services(tmp_path).start("cassandra")


def test_nothing_running_is_said(tmp_path: Path) -> None:
    done = command_line("env", "--dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing runs" in done.stderr


def test_purge_spares_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "minio").mkdir()
    own = tmp_path / "notes.txt"
    own.touch()
    Services(tmp_path).down(purge=True)
    assert list(tmp_path.iterdir()) == [own]


def test_the_cache_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builds: list[Path] = []
    together = threading.Barrier(2)

    def ask() -> Path:
        together.wait()
        return files.cached("thing", builds.append)

    with ThreadPoolExecutor(2) as pool:
        found = {future.result() for future in [pool.submit(ask) for _ in range(2)]}
    assert found == {tmp_path / "ingestion-platform" / "thing"}
    assert len(builds) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(target: Path) -> None:
        (target / "half").touch()
        raise ServiceError("thing", "no network", "try again")

    with pytest.raises(ServiceError):
        files.cached("thing", fail)
    assert [path.name for path in (tmp_path / "ingestion-platform").iterdir()] == ["thing.lock"]


def test_a_stubborn_process_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); signal.pause()"
    )
    log = tmp_path / "log"
    deaf = processes.spawn([sys.executable, "-c", program], log=log, folder=tmp_path, env={})
    assert wait_until(lambda: "deaf" in log.read_text(), 30)
    assert processes.end(deaf, signal.SIGTERM, grace_s=0.2)
    assert not processes.alive(deaf)


def test_free_ports_stay_clear_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < low


def test_a_service_waits_for_what_it_needs(tmp_path: Path) -> None:
    """Alone it does not start, and says who starts what it needs."""
    with pytest.raises(ServiceError, match=r"trino: needs minio and postgres to run.*`up trino`"):
        Services(tmp_path).start("trino")
    assert [set(together) for together in manager._in_order(["trino"])] == [
        {"minio", "postgres"},
        {"trino"},
    ]
