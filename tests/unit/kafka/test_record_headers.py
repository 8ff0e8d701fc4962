"""Headers of any bytes: the Python client cannot represent all of them, and no record is lost."""

from __future__ import annotations

import logging
import uuid
from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.errors import SourceUnavailable
from ingestion_platform.kafka.client import bootstrap_servers, ensure_topic
from ingestion_platform.kafka.librdkafka import FAR, Reader, _neighbours
from ingestion_platform.kafka.topic_log import Log, LogChanged, plain_headers
from ingestion_platform.settings import Settings
from tests.support import c_kafka
from tests.support.c_kafka import Raw

HEADERS: list[tuple[tuple[bytes, bytes | None], ...]] = [
    ((b"ok", b"1"),),
    ((b"\xffbad", b"1"), (b"", None), (b"\xffbad", b"")),
    (),
    ((b"caf\xe9", b"\x00\xff"),),
    tuple((b"\xed\xa0\x80", b"%d" % n) for n in range(3_000)),
]


@pytest.fixture
def topic(embedded_settings: Settings) -> str:
    """A topic whose records have each of HEADERS, in its partition 0."""
    name = f"topic-{uuid.uuid4().hex[:12]}"
    ensure_topic(embedded_settings, name)
    records = [Raw(0, None, b"v", headers, 1) for headers in HEADERS]
    c_kafka.send(bootstrap_servers(embedded_settings), name, records)
    return name


def headers_of(settings: Settings, topic: str) -> Any:
    """The headers that the platform reads."""
    with Log(settings, topic, "group") as log:
        found = []
        for run in log.read({0: range(len(HEADERS))}):
            found += log.headers(run.messages) or [[] for _ in run.messages]
        return found


def test_header_names_of_any_bytes(embedded_settings: Settings, topic: str) -> None:
    """Names and values are those that librdkafka itself has, in their order."""
    found = headers_of(embedded_settings, topic)
    names = [[(k if isinstance(k, bytes) else k.encode(), v) for k, v in each] for each in found]
    assert names == [list(each) for each in HEADERS]
    read = c_kafka.read(bootstrap_servers(embedded_settings), topic, [0])
    assert [raw.headers for raw in read.values()] == HEADERS


def test_unreadable_headers_are_absent(
    embedded_settings: Settings,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record that is gone when it is read again has none, says a warning; others have theirs."""
    monkeypatch.setattr(Reader, "headers", lambda *_: {})
    with caplog.at_level(logging.WARNING, logger="ingestion_platform.kafka"):
        found = headers_of(embedded_settings, topic)
    assert found == [[("ok", b"1")], None, [], None, None]
    # librdkafka warns of other things by the same logger.
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    warned = [text for text in said if topic in text]
    assert len(warned) == 3
    for offset, text in zip((1, 3, 4), warned, strict=True):
        assert f"topic {topic}, partition 0, offset {offset}: " in text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._TIMED_OUT, SourceUnavailable),
        (KafkaError._TRANSPORT, SourceUnavailable),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, LogChanged),
    ],
)
def test_a_silent_broker_costs_no_headers(
    embedded_settings: Settings,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[Exception],
) -> None:
    """What may work later is tried again later: nothing lands without its headers for it."""

    def fails(*_: object) -> None:
        raise KafkaException(KafkaError(code))

    monkeypatch.setattr(Reader, "headers", fails)
    with pytest.raises(kind):
        headers_of(embedded_settings, topic)


def test_records_that_are_gone_are_left_out(embedded_settings: Settings, topic: str) -> None:
    """Offsets beyond the end of the log hold nothing up."""
    config = {"bootstrap.servers": bootstrap_servers(embedded_settings)}
    reader = Reader(config, topic)
    try:
        assert reader.headers(0, [3, 4_000, 3 * FAR]) == {3: list(HEADERS[3])}
    finally:
        reader.close()


class _Message:
    """A message whose headers raise an error, or are None or a list."""

    def __init__(self, headers: Any) -> None:
        self._headers = headers

    def headers(self) -> Any:
        """As confluent-kafka's."""
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers


ERRORS = st.sampled_from([SystemError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")])


@given(st.lists(st.none() | st.just([("a", b"1")]) | ERRORS))
def test_any_error_costs_one_record(each: list[Any]) -> None:
    """Of every other message the headers are found, and each error is told once."""
    messages: list[Any] = [_Message(headers) for headers in each]
    found, failed = plain_headers(messages)
    assert failed == {n: e for n, e in enumerate(each) if isinstance(e, Exception)}
    assert found == [None if isinstance(e, Exception) else e for e in each]


@given(st.sets(st.integers(0, 10 * FAR), min_size=1).map(sorted))
def test_far_records_are_read_apart(offsets: list[int]) -> None:
    """Pieces have all offsets in order, and are cut exactly where two lie far apart."""
    pieces = list(_neighbours(offsets))
    assert [at for piece in pieces for at in piece] == offsets
    assert all(b - a <= FAR for p in pieces for a, b in pairwise(p))
    assert all(q[0] - p[-1] > FAR for p, q in pairwise(pieces))
