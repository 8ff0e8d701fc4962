"""A stream that is delivered to a target of any sink, and the rows of both."""

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
from tests.support.delivered import CONTRACT, Harness, Log, expected, plain
from tests.support.testbed import edited, new_stream


class Scene:
    """A stream with its own lake and its own target."""

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
        """Return the stream, delivered to the target of the scene."""
        return replace(stream, deliver=self._deliver_to)

    @property
    def delivery(self) -> Delivery:
        """The delivery of the current stream."""
        return stream_deliveries(self.log.stream)[0]

    def edit(self, edit: Callable[[dict[str, Any]], None]) -> Stream:
        """Return the stream with another contract."""
        return self.to(edited(self.log.stream, edit))

    def deliver(self, **how: Any) -> Delivered:
        """Deliver the current source."""
        return deliver(self.platform, self.delivery, **how)

    def content(self) -> dict[tuple[Any, ...], Any]:
        """Return the rows of the target."""
        return self.harness.content(self.settings, self.delivery)

    def is_rejected(self, row: dict[str, Any]) -> bool:
        """Return whether the target rejects a row of bronze."""
        shown = plain(row)
        return any(shown[name] == value for name, value in self.harness.rejects.items())

    def assert_equal(self, **how: Any) -> None:
        """Check that the target holds what it must."""
        want, found = expected(self.settings, self.log, **how), self.content()
        assert found.keys() == want.keys()
        assert {k: (found[k], want[k]) for k in want if found[k] != want[k]} == {}
