"""A stream that is delivered to a target of any kind, and what both hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import Delivery, stream_deliveries
from ingestion_platform.sinks.deliver import Delivered, deliver
from ingestion_platform.streams import Destination, Stream
from tests.support.delivered import CONTRACT, Harness, Log, expected
from tests.support.testbed import edited, new_stream


class Scene:
    """A stream with a lake of its own, delivered to a target of its own."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        env = {"PLATFORM_HOME": str(folder / "home")} | harness.environment()
        self.harness = harness
        self.settings = Settings.load(env, root=folder)
        self.platform = Platform(self.settings)
        stream = new_stream(folder, contract=json.loads(json.dumps(CONTRACT)), partitions=2)
        self._deliver_to = (Destination(harness.sink, harness.options()),)
        self.log = Log(self.platform, self.to(stream))

    def to(self, stream: Stream) -> Stream:
        """The stream, delivered to the scene's target."""
        return replace(stream, deliver=self._deliver_to)

    @property
    def delivery(self) -> Delivery:
        """The delivery of the stream as it is now."""
        return stream_deliveries(self.log.stream)[0]

    def edit(self, edit: Callable[[dict[str, Any]], None]) -> Stream:
        """The stream with another contract."""
        return self.to(edited(self.log.stream, edit))

    def deliver(self, **how: Any) -> Delivered:
        """Deliver what there is."""
        return deliver(self.platform, self.delivery, **how)

    def content(self) -> dict[tuple[Any, ...], Any]:
        """What the target holds."""
        return self.harness.content(self.settings, self.delivery)

    def assert_equal(self, **how: Any) -> None:
        """The target holds what it must."""
        wanted, found = expected(self.settings, self.log, **how), self.content()
        assert found.keys() == wanted.keys()
        assert {k: (found[k], wanted[k]) for k in wanted if found[k] != wanted[k]} == {}
