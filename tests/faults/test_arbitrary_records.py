"""Arbitrary bytes and timestamps on real Kafka: they land verbatim, and everything works on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.arbitrary import WIDE_OPEN, Arena
from tests.support.dagster_lab import Lab, days_ago

pytestmark = [pytest.mark.services]


@pytest.mark.fault("log", "records of arbitrary bytes, header names and timestamps")
def test_arbitrary_records_land_verbatim(
    real_settings: Settings,
    make_stream: Callable[..., Stream],
    rng: random.Random,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """Each record lands as it was sent, and an ingest date that Dagster has a partition for; the
    status, metrics, doctor, sensor, assets and worker go on."""
    rounds = 1 + request.config.getoption("kills") // 50
    start = days_ago(5).isoformat()
    first = replace(make_stream(real_settings, **WIDE_OPEN), start_date=start)
    append = {"message.timestamp.type": "LogAppendTime"}
    second = replace(make_stream(real_settings, **append), start_date=start)
    with dg.DagsterInstance.ephemeral() as instance:
        arena = Arena(Lab(first, real_settings, instance), second, rng)
        arena.send(150)
        arena.look()
        arena.run()
        for number in range(rounds):
            for step in (arena.materialize, lambda: arena.work(caplog)):
                arena.send(80)
                if number == 0:
                    arena.look()
                step()
        arena.look()
        arena.holds()
