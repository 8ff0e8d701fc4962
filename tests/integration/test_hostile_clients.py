"""A door process under clients that mean harm: raw bytes over sockets of the test's own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from door_process import DoorProcess, door_process, until

from ingestion_platform.settings import Settings

FORGED = "forged-line"
BREAKS = ("\r\n", "\n", "\r", "\v", "\f", "\x1b[2J\n", "\x85", "\u2028", "\u2029", "\0", "\x9b")


def exchange(door: DoorProcess, request: bytes) -> bytes:
    """Send bytes, close the sending side, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=30) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        found = b""
        while piece := link.recv(65_536):
            found += piece
        return found


@pytest.fixture(params=["console", "json"])
def logging_door(
    request: pytest.FixtureRequest, embedded_settings: Settings, tmp_path: Path
) -> Iterator[DoorProcess]:
    """A door whose log has one of the two formats."""
    home = embedded_settings.home
    environment = {"PLATFORM_HOME": str(home), "LOG_FORMAT": request.param}
    with door_process(environment, tmp_path) as running:
        yield running


def test_no_request_forges_log_lines(logging_door: DoorProcess) -> None:
    """Line ends of any kind, in path, query, method, headers and request id."""
    texts = [f"{each}2026-11-20 10:00:00 INFO {FORGED}" for each in BREAKS]
    for text in texts:
        path = quote(f"/{text}")
        exchange(logging_door, f"GET {path}?{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw = text.encode()
        head = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        for name in (b"X-Request-ID", b"Content-Type", b"X-Api-Key", b"Content-Encoding"):
            exchange(logging_door, head + name + b": a" + raw + b"\r\n\r\n{}")
        exchange(logging_door, b"G" + raw + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        exchange(logging_door, b"GET /\xff" + raw + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange(logging_door, b"GET /the-end HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: "/the-end" in logging_door.log.read_text())
    written = logging_door.log.read_bytes()
    lines = written.decode().splitlines()
    assert lines == written.decode().rstrip("\n").split("\n")
    for line in lines:
        if line.startswith("{"):
            json.loads(line)
        else:
            assert not line.partition(" INFO ")[2].startswith(FORGED)
            assert not line.startswith(FORGED)
    assert FORGED in written.decode()
