"""Read single records through librdkafka's C API, for what the Python client cannot represent.

The library is the one that confluent-kafka has loaded. `topic_log` reads a topic as a log.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping, Sequence
from ctypes import (
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
)
from functools import cache
from itertools import pairwise
from typing import Any

Headers = list[tuple[bytes, bytes | None]]
"""Names and values in the order of the record. librdkafka cuts a name at its first NUL byte."""

FAR = 10_000
"""If two wanted offsets differ by more than this, reading restarts at the second one."""
_CONSUMER = 1  # RD_KAFKA_CONSUMER
_POLL_MS = 500
_CONFIG: dict[str, Any] = {
    "enable.partition.eof": True,
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
}


class Message(ctypes.Structure):
    """The C struct rd_kafka_message_s; a null `payload` or `key` is None."""

    _fields_ = (
        ("err", c_int),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """Return librdkafka with the signatures of the functions that this module calls."""
    import confluent_kafka.cimpl

    lib = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "rd_kafka_conf_new": (c_void_p, ()),
        "rd_kafka_conf_destroy": (None, (c_void_p,)),
        "rd_kafka_conf_set": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
        "rd_kafka_conf_set_log_cb": (None, (c_void_p, c_void_p)),
        "rd_kafka_new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
        "rd_kafka_destroy": (None, (c_void_p,)),
        "rd_kafka_topic_new": (c_void_p, (c_void_p, c_char_p, c_void_p)),
        "rd_kafka_topic_destroy": (None, (c_void_p,)),
        "rd_kafka_consume_start": (c_int, (c_void_p, c_int32, c_int64)),
        "rd_kafka_consume": (POINTER(Message), (c_void_p, c_int32, c_int)),
        "rd_kafka_consume_stop": (c_int, (c_void_p, c_int32)),
        "rd_kafka_last_error": (c_int, ()),
        "rd_kafka_message_headers": (c_int, (POINTER(Message), POINTER(c_void_p))),
        "rd_kafka_message_destroy": (None, (POINTER(Message),)),
        "rd_kafka_header_get_all": (
            c_int,
            (c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t)),
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def read_headers(message: Any) -> Headers | None:
    """Return the headers of a message, given by pointer; None if librdkafka cannot parse them."""
    from confluent_kafka import KafkaError

    lib, parsed = library(), c_void_p()
    code = lib.rd_kafka_message_headers(message, ctypes.byref(parsed))
    if code:
        return [] if code == KafkaError._NOENT else None
    name, value, size = c_char_p(), c_void_p(), c_size_t()
    places = (ctypes.byref(name), ctypes.byref(value), ctypes.byref(size))
    found: Headers = []
    while not lib.rd_kafka_header_get_all(parsed, len(found), *places):
        content = None if value.value is None else ctypes.string_at(value.value, size.value)
        found.append((name.value or b"", content))
    return found


class Reader:
    """A reader of single records of one topic, by offset. Has its own client; not thread-safe."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        """Open a client.

        Raises:
            KafkaException: librdkafka rejects the configuration.
        """
        self._lib = library()
        self._client = _client(self._lib, {**config, **_CONFIG})
        self._topic = self._lib.rd_kafka_topic_new(self._client, topic.encode(), None)
        if not self._topic:
            code = self._lib.rd_kafka_last_error()
            self._lib.rd_kafka_destroy(self._client)
            raise _error(code, f"topic {topic}")

    def close(self) -> None:
        """Close the client."""
        self._lib.rd_kafka_topic_destroy(self._topic)
        self._lib.rd_kafka_destroy(self._client)

    def headers(
        self, partition: int, offsets: Sequence[int], *, timeout: float = 60.0
    ) -> dict[int, Headers]:
        """Return the headers of records of a partition, by offset; `offsets` must increase.

        A record that is no longer in the log, or that librdkafka cannot parse, is left out.

        Raises:
            KafkaException: the brokers reject a request, or no message arrived for `timeout`
                seconds.
        """
        found: dict[int, Headers] = {}
        for near in _neighbours(offsets):
            wanted = set(near)
            for message in self._messages(partition, near[0], near[-1], timeout):
                offset = message.contents.offset
                if offset in wanted and not message.contents.err:
                    headers = read_headers(message)
                    found |= {} if headers is None else {offset: headers}
        return found

    def _messages(self, partition: int, first: int, last: int, timeout: float) -> Iterator[Any]:
        """Yield pointers to the messages from `first` to `last`; each is valid until the next."""
        if self._lib.rd_kafka_consume_start(self._topic, partition, first):
            raise _error(self._lib.rd_kafka_last_error(), f"partition {partition}")
        try:
            at = first
            deadline = time.monotonic() + timeout
            while at <= last:
                message = self._lib.rd_kafka_consume(self._topic, partition, _POLL_MS)
                if message:
                    try:
                        if _ends(message.contents, partition):
                            return
                        yield message
                        at = max(at, message.contents.offset + 1)
                        deadline = time.monotonic() + timeout
                    finally:
                        self._lib.rd_kafka_message_destroy(message)
                elif time.monotonic() > deadline:
                    from confluent_kafka import KafkaError

                    raise _error(KafkaError._TIMED_OUT, f"partition {partition}, offset {at}")
        finally:
            self._lib.rd_kafka_consume_stop(self._topic, partition)


def _client(lib: ctypes.CDLL, config: Mapping[str, Any]) -> Any:
    """Return a consumer with this configuration, without values such as a logger."""
    from confluent_kafka import KafkaError

    why = ctypes.create_string_buffer(512)
    conf = lib.rd_kafka_conf_new()
    for name, value in config.items():
        if isinstance(value, str | int | float):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if lib.rd_kafka_conf_set(conf, name.encode(), text.encode(), why, len(why)):
                lib.rd_kafka_conf_destroy(conf)
                raise _error(KafkaError._INVALID_ARG, name)
    # Its log would go to stderr; the consumer of `topic_log` logs the same errors.
    lib.rd_kafka_conf_set_log_cb(conf, None)
    client = lib.rd_kafka_new(_CONSUMER, conf, why, len(why))
    if not client:
        lib.rd_kafka_conf_destroy(conf)
        raise _error(lib.rd_kafka_last_error(), "client")
    return client


def _ends(message: Message, partition: int) -> bool:
    """Return whether the log has no more of the requested records.

    Raises:
        KafkaException: the brokers reject the request.
    """
    from confluent_kafka import KafkaError

    if message.err in (
        KafkaError._PARTITION_EOF,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
    ):
        return True
    if message.err in (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ):
        raise _error(message.err, f"partition {partition}")
    return False


def _neighbours(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Yield groups of increasing offsets, cut where two differ by more than FAR."""
    cuts = [n for n, (a, b) in enumerate(pairwise(offsets), 1) if b - a > FAR]
    for start, stop in pairwise([0, *cuts, len(offsets)]):
        yield list(offsets[start:stop])


def _error(code: int, where: str) -> Exception:
    from confluent_kafka import KafkaError, KafkaException

    return KafkaException(KafkaError(code, where))
