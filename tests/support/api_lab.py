"""An API in this process with its client, and what the topics behind it hold."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from httpx2 import Response
from starlette.testclient import TestClient

from ingestion_platform.http_api.api import Api
from ingestion_platform.kafka.client import client_config, ensure_topic
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams

NAMES = ("pgr_events", "recomart_users", "recomart_transactions")
USER = {"user_id": 1001, "age": 34, "gender": "F", "device": "Mobile"}


@dataclass
class Served:
    """An API and its client."""

    http: TestClient
    api: Api
    settings: Settings
    streams: dict[str, Stream]

    def records(
        self, stream: str, content: bytes | str, kind: str = "application/json", **h: str
    ) -> Response:
        """Post to a stream, with further headers."""
        headers = {"content-type": kind} | {k.replace("_", "-"): v for k, v in h.items()}
        return self.http.post(f"/v1/streams/{stream}/records", content=content, headers=headers)

    def sent(self, stream: str) -> list[Message]:
        """Everything that the stream's topic holds."""
        return consumed(self.settings, self.streams[stream].topic)


def consumed(settings: Settings, topic: str) -> list[Message]:
    """Everything that the topic holds, partition by partition."""
    partitions = ensure_topic(settings, topic)
    consumer = Consumer(client_config(settings, **{"group.id": "test"}))
    try:
        ends = {}
        for partition in range(partitions):
            where = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(where, timeout=10)
            if low < high:
                ends[partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        found: list[Message] = []
        deadline = time.monotonic() + 30
        while ends:
            assert time.monotonic() < deadline, "the topic cannot be read to its end"
            for message in consumer.consume(1000, timeout=0.1):
                assert message.error() is None
                found.append(message)
                if message.offset() + 1 == ends[message.partition()]:
                    del ends[message.partition()]
        return sorted(found, key=lambda m: (m.partition(), m.offset()))
    finally:
        consumer.close()


def own_streams(*names: str) -> dict[str, Stream]:
    """Declared streams whose topics nobody else has."""
    declared = declared_streams()
    own = uuid.uuid4().hex[:8]
    return {name: replace(declared[name], topic=f"{name}-{own}") for name in names}


def http_api_settings(base: Settings, tmp_path: Path, **http_api: Any) -> Settings:
    """Settings of an API without keys, which stages into a folder of the test."""
    changed = base.http_api.replace(**({"auth": False} | http_api))
    return base.replace(http_api=changed, drop_url=(tmp_path / "drop zone").as_uri())
