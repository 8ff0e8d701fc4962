"""Send and read records of any bytes through librdkafka's C API, by bindings of the tests' own."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable, Sequence
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from dataclasses import dataclass

import confluent_kafka.cimpl

LIB = ctypes.CDLL(confluent_kafka.cimpl.__file__)
PRODUCER, CONSUMER = 0, 1
END, TOPIC, PARTITION, VALUE, KEY, FLAGS, TIMESTAMP, HEADERS = 0, 1, 3, 4, 5, 7, 8, 10
COPY = 2
EOF, NONE = -191, -156


@dataclass(frozen=True, slots=True)
class Raw:
    """A record to send, or as it was read; `kind` is its timestamp's type."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]
    stamp: int
    kind: int = 1


class _Memory(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("size", c_size_t))


class _Union(ctypes.Union):
    _fields_ = (
        ("text", c_char_p),
        ("int", c_int),
        ("int32", c_int32),
        ("int64", c_int64),
        ("memory", _Memory),
        ("pointer", c_void_p),
        ("padding", ctypes.c_char * 64),
    )


class _Argument(ctypes.Structure):
    _fields_ = (("type", c_int), ("u", _Union))


class _Message(ctypes.Structure):
    _fields_ = (
        ("error", c_int),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("value", c_void_p),
        ("size", c_size_t),
        ("key", c_void_p),
        ("key_size", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


for _name, _result, _arguments in (
    ("conf_new", c_void_p, ()),
    ("conf_set", c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    ("new", c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    ("destroy", None, (c_void_p,)),
    ("flush", c_int, (c_void_p, c_int)),
    ("outq_len", c_int, (c_void_p,)),
    ("headers_new", c_void_p, (c_size_t,)),
    ("header_add", c_int, (c_void_p, c_char_p, c_ssize_t, c_char_p, c_ssize_t)),
    ("produceva", c_void_p, (c_void_p, ctypes.POINTER(_Argument), c_size_t)),
    ("topic_new", c_void_p, (c_void_p, c_char_p, c_void_p)),
    ("topic_destroy", None, (c_void_p,)),
    ("consume_start", c_int, (c_void_p, c_int32, c_int64)),
    ("consume_stop", c_int, (c_void_p, c_int32)),
    ("consume", ctypes.POINTER(_Message), (c_void_p, c_int32, c_int)),
    ("message_destroy", None, (c_void_p,)),
    ("message_headers", c_int, (c_void_p, ctypes.POINTER(c_void_p))),
    ("message_timestamp", c_int64, (c_void_p, ctypes.POINTER(c_int))),
    (
        "header_get_all",
        c_int,
        (
            c_void_p,
            c_size_t,
            ctypes.POINTER(c_char_p),
            ctypes.POINTER(c_void_p),
            ctypes.POINTER(c_size_t),
        ),
    ),
):
    _function = getattr(LIB, f"rd_kafka_{_name}")
    _function.restype, _function.argtypes = _result, _arguments


def _client(kind: int, **config: str) -> int:
    why = ctypes.create_string_buffer(512)
    conf = LIB.rd_kafka_conf_new()
    for name, value in config.items():
        assert not LIB.rd_kafka_conf_set(
            conf, name.replace("_", ".").encode(), value.encode(), why, 512
        ), why.value
    client: int = LIB.rd_kafka_new(kind, conf, why, 512)
    assert client, why.value
    return client


def _argument(kind: int, **value: int | bytes | tuple[int | None, int]) -> _Argument:
    made = _Argument(type=kind)
    for name, of in value.items():
        setattr(made.u, name, _Memory(*of) if isinstance(of, tuple) else of)
    return made


def send(servers: str, topic: str, records: Iterable[Raw]) -> None:
    """Send records as they are, and see that they are acknowledged."""
    client = _client(PRODUCER, bootstrap_servers=servers, acks="all", message_max_bytes="4000000")
    try:
        for record in records:
            headers = LIB.rd_kafka_headers_new(8)
            for name, value in record.headers:
                size = -1 if value is None else len(value)
                assert not LIB.rd_kafka_header_add(headers, name, len(name), value, size)
            buffers = [
                None if each is None else ctypes.create_string_buffer(each, len(each) + 1)
                for each in (record.key, record.value)
            ]
            sizes = [0 if each is None else len(each) for each in (record.key, record.value)]
            key, payload = (
                (None if b is None else ctypes.addressof(b), n)
                for b, n in zip(buffers, sizes, strict=True)
            )
            arguments = [
                _argument(TOPIC, text=topic.encode()),
                _argument(PARTITION, int32=record.partition),
                _argument(FLAGS, int=COPY),
                _argument(KEY, memory=key),
                _argument(VALUE, memory=payload),
                _argument(TIMESTAMP, int64=record.stamp),
                _argument(HEADERS, pointer=headers),
            ]
            array = (_Argument * len(arguments))(*arguments)
            assert not LIB.rd_kafka_produceva(client, array, len(arguments))
        assert LIB.rd_kafka_flush(client, 60_000) == 0
        assert LIB.rd_kafka_outq_len(client) == 0
    finally:
        LIB.rd_kafka_destroy(client)


def read(servers: str, topic: str, partitions: Sequence[int]) -> dict[tuple[int, int], Raw]:
    """All records of some partitions, by partition and offset."""
    client = _client(
        CONSUMER,
        bootstrap_servers=servers,
        enable_partition_eof="true",
        auto_offset_reset="earliest",
    )
    handle = LIB.rd_kafka_topic_new(client, topic.encode(), None)
    found: dict[tuple[int, int], Raw] = {}
    try:
        for partition in partitions:
            assert not LIB.rd_kafka_consume_start(handle, partition, -2)  # from its beginning
            found |= {(partition, at): raw for at, raw in _read(handle, partition)}
            assert not LIB.rd_kafka_consume_stop(handle, partition)
    finally:
        LIB.rd_kafka_topic_destroy(handle)
        LIB.rd_kafka_destroy(client)
    return found


def _read(handle: int, partition: int) -> Iterable[tuple[int, Raw]]:
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, f"partition {partition} cannot be read to its end"
        pointer = LIB.rd_kafka_consume(handle, partition, 500)
        if not pointer:
            continue
        message = pointer.contents
        try:
            if message.error == EOF:
                return
            assert not message.error, message.error
            kind = c_int()
            stamp = LIB.rd_kafka_message_timestamp(pointer, ctypes.byref(kind))
            key, value = (
                None if at is None else ctypes.string_at(at, size)
                for at, size in ((message.key, message.key_size), (message.value, message.size))
            )
            headers = tuple(_headers(pointer))
            yield message.offset, Raw(partition, key, value, headers, stamp, kind.value)
        finally:
            LIB.rd_kafka_message_destroy(pointer)


def _headers(pointer: object) -> Iterable[tuple[bytes, bytes | None]]:
    parsed, name, value, size = c_void_p(), c_char_p(), c_void_p(), c_size_t()
    code = LIB.rd_kafka_message_headers(pointer, ctypes.byref(parsed))
    assert code in (0, NONE), code
    places = (ctypes.byref(name), ctypes.byref(value), ctypes.byref(size))
    number = 0
    while not code and not LIB.rd_kafka_header_get_all(parsed, number, *places):
        held = None if value.value is None else ctypes.string_at(value.value, size.value)
        yield name.value or b"", held
        number += 1
