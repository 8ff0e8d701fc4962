"""What the door counted since it started, under the platform's metric names, by stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_HELP = {
    "ingested_rows_total": "Records that the door accepted and Kafka acknowledged.",
    "failed_validations_total": "Records that the contract refused; they were not sent.",
    "ingestion_errors_total": "Records that Kafka did not acknowledge.",
}
DOOR = "http"


class Counters:
    """Counts of accepted, refused and failed records of each stream. For one event loop."""

    def __init__(self, streams: Iterable[str]) -> None:
        """Every stream starts at zero, so that a rate is right from the first record on."""
        names = list(streams)
        self._counts = {name: Counter(dict.fromkeys(names, 0)) for name in _HELP}

    def add(self, stream: str, *, accepted: int = 0, refused: int = 0, failed: int = 0) -> None:
        """Count what became of records of a stream."""
        for name, count in zip(_HELP, (accepted, refused, failed), strict=True):
            self._counts[name][stream] += count

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The counts by metric and stream."""
        return {name: dict(counts) for name, counts in self._counts.items()}

    def exposition(self) -> str:
        """The counts in Prometheus's text format."""
        lines = []
        for name, counts in self._counts.items():
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} counter"]
            lines += [
                f'{name}{{stream="{stream}",door="{DOOR}"}} {count}'
                for stream, count in counts.items()
            ]
        return "\n".join(lines) + "\n"
