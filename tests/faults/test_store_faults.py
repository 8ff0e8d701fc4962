"""An object store that is slow, refuses, breaks off, loses its replies, or is full.

A proxy stands between the platform and MinIO; the oracle reads without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services import Services
from tests.support.processes import Worker
from tests.support.proxy import Answer, CutReply, CutRequest, Fault, Proxy, Rule, Slow
from tests.support.scene import STORE_URL, Scene, detoured, port_of
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

LAKE = rb"^PUT [^ ]*/partition[^/]*/\d[^ ]*\.parquet"
ROWS = rb"^P[A-Z]* [^ ]*/warehouse/[^ ]*\.parquet"
METADATA = rb"^P[A-Z]* [^ ]*/warehouse/[^ ]*\.(avro|json)"
KEYS = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
READS = rb"^GET "
READ_LAKE = rb"^GET [^ ]*/partition[^/]*/\d[^ ]*\.parquet"


@dataclass
class Detour:
    """A scene whose worker reaches the object store through a proxy."""

    scene: Scene
    proxy: Proxy


@pytest.fixture
def detour(servers: Services, worker: Worker, tmp_path: Path) -> Iterator[Detour]:
    """A new stream, loaded once; nothing is broken yet."""
    env = separate_environment(servers)
    with Proxy(port_of(env, STORE_URL), http=True) as proxy:
        scene = Scene.new(worker, env, tmp_path)
        scene.env = detoured(env, STORE_URL, proxy.port)
        scene.send(1_500)
        scene.measure("run")
        assert proxy.connections > 0
        scene.send(1_500)
        yield Detour(scene, proxy)


@pytest.mark.fault("object store", "slow: latency on every request, replies at 2 MB a second")
def test_a_slow_store(detour: Detour) -> None:
    """The run takes longer, and nothing else."""
    rule = Rule(rb"", Slow(latency=0.05, rate=2_000_000), times=None)
    detour.proxy.script(rule)
    assert detour.scene.start("run").wait() == "ok"
    assert rule.hits > 20
    detour.scene.holds()


@pytest.mark.fault("object store", "answers 503 SlowDown to a few requests of each kind")
def test_a_few_503(detour: Detour) -> None:
    """The requests are tried again, and the run does not fail."""
    rules = [Rule(match, Answer(503), times=2) for match in (LAKE, ROWS, METADATA, READS)]
    detour.proxy.script(*rules)
    assert detour.scene.start("run").wait() == "ok"
    assert [rule.hits for rule in rules] == [2, 2, 2, 2]
    detour.scene.holds()


@pytest.mark.fault("object store", "answers 503 SlowDown to all requests of a kind, for long")
def test_lasting_503(detour: Detour) -> None:
    """The run fails as transient and names the setting; after the outage the next one goes on."""
    for match in (LAKE, ROWS, METADATA, READS):
        detour.proxy.script(Rule(match, Answer(503), times=None))
        outcome = detour.scene.start("run").wait()
        assert outcome.startswith("transient StoreUnavailable"), outcome
        assert STORE_URL in outcome
    detour.proxy.calm()
    assert detour.scene.until_done() == []
    detour.scene.holds()


@pytest.mark.fault("object store", "loses the reply to requests that it has carried out")
def test_a_lost_reply(detour: Detour) -> None:
    """They are repeated, find their own earlier success, and the run does not fail."""
    for reset in (True, False):
        detour.scene.send(500)
        rules = [Rule(match, CutReply(reset=reset)) for match in (LAKE, ROWS, METADATA)]
        detour.proxy.script(*rules)
        assert detour.scene.start("run").wait() == "ok"
        assert [rule.hits for rule in rules] == [1, 1, 1]
    detour.scene.holds()


@pytest.mark.fault("object store", "loses every reply to the creation of a lake file")
def test_all_replies_to_creations_are_lost(detour: Detour) -> None:
    """The run fails as transient with the file in place; the next one finds it and goes on."""
    rule = Rule(LAKE, CutReply(), times=None)
    detour.proxy.script(rule)
    outcome = detour.scene.start("run").wait()
    assert outcome.startswith("transient StoreUnavailable"), outcome
    assert rule.hits > 1
    detour.proxy.calm()
    assert detour.scene.until_done() == []
    detour.scene.holds()


@pytest.mark.fault("object store", "breaks off in the middle of a reply")
def test_a_reply_breaks_off(detour: Detour) -> None:
    """Half a file is never taken for a whole one: it is read again."""
    scene = detour.scene
    for reset in (True, False):
        scene.send(500)
        assert scene.start("land").wait() == "ok"
        rule = Rule(READ_LAKE, CutReply(2_000, reset), times=3)
        detour.proxy.script(rule)
        scene.until_done(do="load")
        assert rule.hits > 0
    scene.holds()


@pytest.mark.fault("object store", "away: its port refuses connections in the middle of a run")
def test_rejected_connections(detour: Detour, rng: random.Random) -> None:
    """The run fails as transient, if at all; the next one goes on."""
    scene = detour.scene
    for _ in range(2):
        scene.send(500)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        detour.proxy.refuse()
        attempt.ended(1.0)
        detour.proxy.accept()
        scene.until_done(attempt)
    scene.holds()


@pytest.mark.fault("object store", "any of these faults, at random requests, again and again")
def test_random_faults(
    detour: Detour,
    rng: random.Random,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Runs end well or as transient, and in the end every record is there once."""
    scene, hits = detour.scene, 0
    for _ in range(max(2, int(request.config.getoption("kills")) // 9)):
        scene.send(300)
        rules = [
            Rule(rb"", random_fault(rng), skip=rng.randrange(60), times=rng.randrange(1, 9))
            for _ in range(3)
        ]
        detour.proxy.script(*rules)
        outcome = scene.start("run").wait()
        assert outcome == "ok" or outcome.startswith("transient "), outcome
        hits += sum(rule.hits for rule in rules)
    record_property("faults", hits)
    detour.proxy.calm()
    scene.until_done()
    scene.holds()


def random_fault(rng: random.Random) -> Fault:
    """One of the faults of a network, or of a server that has too much to do."""
    return rng.choice(
        [
            Answer(503),
            Answer(500, "InternalError"),
            CutRequest(rng.randrange(2_000)),
            CutReply(rng.choice([0, 0, 100, 1_000]), reset=rng.random() < 0.5),
            Slow(rng.uniform(0, 0.3)),
        ]
    )


@pytest.mark.fault("object store", "refuses credentials that expired in the middle of a run")
def test_expired_credentials(detour: Detour) -> None:
    """The run fails as permanent and names the keys; with good ones the next run goes on."""
    codes = ("ExpiredToken", "AccessDenied", "InvalidAccessKeyId", "ExpiredToken")
    for code, match in zip(codes, (LAKE, ROWS, METADATA, READS), strict=True):
        detour.proxy.script(Rule(match, Answer(403, code), times=None))
        outcome = detour.scene.start("run").wait()
        assert outcome.startswith("permanent "), outcome
        assert "AWS_SECRET_ACCESS_KEY" in outcome
    detour.proxy.calm()
    assert detour.scene.until_done() == []
    detour.scene.holds()


@pytest.mark.fault("object store", "does not know the keys")
def test_wrong_keys(detour: Detour) -> None:
    """The run fails as permanent and names the keys; with good ones the next run goes on."""
    scene, good = detour.scene, detour.scene.env
    wrong = "no such secret"
    tables = {f"PYICEBERG_CATALOG__LAKEHOUSE__S3__{name}": good[f"AWS_{name}"] for name in KEYS}
    for env in (dict.fromkeys(tables, wrong), tables):  # for all, and for the lake only
        scene.env = good | env | {"AWS_SECRET_ACCESS_KEY": wrong}
        outcome = scene.start("run").wait()
        assert outcome.startswith("permanent "), outcome
        assert "AWS_SECRET_ACCESS_KEY" in outcome
        assert wrong not in outcome
    scene.env = good
    assert scene.until_done() == []
    scene.holds()
