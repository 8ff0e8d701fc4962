"""The embedded broker: one per home, found only while it lives, ended without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ingestion_platform.errors import SourceUnavailable
from ingestion_platform.kafka import broker
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a home without a broker; stop one that the test starts."""
    yield tmp_path / "home"
    broker.stop(tmp_path / "home")


def python(*arguments: str) -> subprocess.Popen[str]:
    """A Python process that can import the package."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def written(home: Path, address: broker.BrokerAddress) -> None:
    """Put that address where a broker of the home would write its own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "broker.json").write_text(json.dumps(asdict(address)))


def test_a_started_broker_has_an_address_until_it_is_stopped(home: Path) -> None:
    """`start` returns a live broker, `stop` removes process and address."""
    started = broker.start(home)
    assert broker.address(home) == started
    assert broker.stop(home)
    assert broker.address(home) is None
    assert not (home / "broker.json").exists()
    assert not broker.stop(home)


def test_starting_twice_gives_the_same_broker(home: Path) -> None:
    """A home has one broker."""
    assert broker.start(home) == broker.start(home)


def test_many_starters_at_once_get_one_broker(home: Path) -> None:
    """The race for a home has one winner, which all the others use."""
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: broker.start(home), range(4)))
    assert len(set(started)) == 1
    assert broker.address(home) == started[0]
    broker.stop(home)
    # A loser that is still starting must not take over what the winner left.
    assert eventually(lambda: serving(home) == [])
    assert broker.address(home) is None


def serving(home: Path) -> list[str]:
    """The process ids of everything that serves the home or is about to."""
    # -ww: without a terminal ps cuts its lines after 80 characters.
    command = ["ps", "-ww", "-eo", "pid,args"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in shown.stdout.splitlines()]
    return [
        line[0] for line in lines if str(home) in line and "ingestion_platform.kafka.broker" in line
    ]


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The broker processes that `start` makes, each stopped before it does anything."""
    made: list[subprocess.Popen[bytes]] = []
    spawn = broker._spawn

    def spawn_halted(home: Path, turn: int) -> subprocess.Popen[bytes]:
        child = spawn(home, turn)
        child.send_signal(signal.SIGSTOP)
        made.append(child)
        return child

    monkeypatch.setattr(broker, "_spawn", spawn_halted)
    yield made
    for child in made:
        child.kill()


def test_starters_at_once_spawn_one_broker(
    home: Path, halted: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one starter's broker is not ready, the others wait and start none."""
    asked: set[int] = set()
    address = broker.address

    def counted(home: Path) -> broker.BrokerAddress | None:
        asked.add(threading.get_ident())
        return address(home)

    monkeypatch.setattr(broker, "address", counted)
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(broker.start, home) for _ in range(4)]
        assert eventually(lambda: len(asked) == 4 and len(halted) > 0)
        halted[0].send_signal(signal.SIGCONT)
        assert len({start.result() for start in starts}) == 1
    assert [child.pid for child in halted] == [starts[0].result().pid]


def test_stop_waits_for_a_start_in_progress(
    home: Path, halted: list[subprocess.Popen[bytes]]
) -> None:
    """The broker that was about to be ready is the one that ends."""
    with ThreadPoolExecutor(2) as pool:
        start = pool.submit(broker.start, home)
        assert eventually(lambda: len(halted) > 0)
        stop = pool.submit(broker.stop, home)
        assert not stop.done()
        halted[0].send_signal(signal.SIGCONT)
        assert start.result().pid == halted[0].pid
        assert stop.result()
    assert serving(home) == []
    assert broker.address(home) is None


def test_stop_waits_for_a_killed_starters_broker(home: Path) -> None:
    """A broker whose starter died before it was ready keeps the turn, and ends by `stop`."""
    code = """
import os, pathlib, signal, sys
from ingestion_platform.kafka import broker
spawn = broker._spawn
def spawn_and_die(home, turn):
    child = spawn(home, turn)
    child.send_signal(signal.SIGSTOP)
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
broker._spawn = spawn_and_die
broker.start(pathlib.Path(sys.argv[1]))
"""
    starter = python("-c", code, str(home))
    pid = int(starter.communicate(timeout=30)[0])
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(broker.stop, home)
        assert not stop.done()
        os.kill(pid, signal.SIGCONT)
        assert stop.result()
    assert serving(home) == []
    assert broker.address(home) is None


def test_a_starters_own_broker_ends_if_another_serves(
    home: Path, halted: list[subprocess.Popen[bytes]]
) -> None:
    """When `start` returns another's broker, its own process is gone, whatever it was doing."""
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(broker.start, home)
        assert eventually(lambda: len(halted) > 0)
        other = python("-m", "ingestion_platform.kafka.broker", str(home))
        assert start.result().pid == other.pid
    assert serving(home) == [str(other.pid)]
    other.terminate()
    other.communicate(timeout=30)
    assert broker.address(home) is None


def test_a_turn_that_never_comes_is_an_error(home: Path) -> None:
    """A process that hangs while it starts the broker does not hang the others."""
    with (
        broker._turn(home, 0.0),
        pytest.raises(SourceUnavailable, match="another process is starting or stopping"),
    ):
        broker.start(home, timeout=0.1)
    assert not broker.stop(home)


def test_a_restart_is_a_new_topic_id_without_the_records(home: Path) -> None:
    """Nobody can take the offsets of a new broker for those of the one before."""
    settings = Settings.load({"PLATFORM_HOME": str(home)}, root=home)
    first = broker.start(home)
    ensure_topic(settings, "events")
    assert produce(settings, "events", [Record(b"k", b"v")]).delivered == 1
    broker.stop(home)
    second = broker.start(home)
    assert second.topic_id != first.topic_id
    ensure_topic(settings, "events")
    assert stored(second, "events") == 0


def stored(address: broker.BrokerAddress, topic: str) -> int:
    """How many records the topic has."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "test"})
    try:
        marks = [
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            for partition in range(broker.PARTITIONS)
        ]
        return sum(high - low for low, high in marks)
    finally:
        consumer.close()


def test_a_killed_broker_has_no_address_and_can_be_started_again(home: Path) -> None:
    """The file that a crash leaves behind is not believed."""
    first = broker.start(home)
    os.kill(first.pid, signal.SIGKILL)
    assert eventually(lambda: broker.address(home) is None)
    assert (home / "broker.json").exists()
    assert broker.start(home).topic_id != first.topic_id


def test_a_file_about_a_recycled_pid_is_not_believed(home: Path) -> None:
    """A process that merely has the number of a dead broker is left alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        servers = f"127.0.0.1:{server.getsockname()[1]}"
        written(home, broker.BrokerAddress(servers, os.getpid(), "long ago", "", "topic_id"))
        assert broker.address(home) is None
        assert not broker.stop(home)
    assert not (home / "broker.json").exists()


def test_a_broker_whose_port_is_closed_has_no_address(home: Path) -> None:
    """An address is only given if clients can connect to it."""
    started = broker.start(home)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    written(home, replace(started, bootstrap_servers=closed))
    assert broker.address(home) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', '{"what": 1}'])
def test_a_damaged_file_is_no_address(home: Path, content: str) -> None:
    """Whatever stands in the file, the answer is an address or None."""
    home.mkdir()
    (home / "broker.json").write_text(content)
    assert broker.address(home) is None
    assert not broker.stop(home)


def test_a_broker_outlives_the_process_that_started_it(home: Path) -> None:
    """`start` detaches the broker."""
    code = "import sys, pathlib; from ingestion_platform.kafka import broker as b;"
    child = python("-c", f"{code} print(b.start(pathlib.Path(sys.argv[1])).pid)", str(home))
    pid, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    found = broker.address(home)
    assert found is not None
    assert found.pid == int(pid)


def test_a_second_broker_in_the_foreground_is_rejected(home: Path) -> None:
    """Two brokers never share a home."""
    started = broker.start(home)
    second = python("-m", "ingestion_platform.kafka.broker", str(home))
    _, errors = second.communicate(timeout=30)
    assert second.returncode != 0
    assert "already serves" in errors
    assert broker.address(home) == started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_foreground_broker_ends_cleanly_on_a_signal(home: Path, number: int) -> None:
    """`serve` tells its servers when it is ready, and takes its file along when it ends."""
    code = "import sys, pathlib; from ingestion_platform.kafka.broker import serve;"
    ready = "serve(pathlib.Path(sys.argv[1]), ready=lambda servers: print(servers, flush=True))"
    child = python("-c", f"{code} {ready}", str(home))
    assert child.stdout is not None
    servers = child.stdout.readline().strip()
    found = broker.address(home)
    assert found is not None
    assert found.bootstrap_servers == servers
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (0, "")
    assert not (home / "broker.json").exists()


def test_a_broker_that_cannot_start_says_why(home: Path) -> None:
    """The error carries what the broker's log says, and where that log is."""
    (home / "broker.lock").mkdir(parents=True)
    with pytest.raises(SourceUnavailable, match=r"ended at once.*IsADirectory") as raised:
        broker.start(home)
    assert "broker.log" in raised.value.action
