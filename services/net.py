"""Ports and waiting: what every service needs to be started and found ready.

The protocols that the services speak live with the services.
"""

import http.client
import random
import socket
import time
from collections.abc import Callable, Collection

LOOPBACK = "127.0.0.1"

# Below the range that the kernel hands out to outgoing connections: a client that keeps
# reconnecting to a stopped server could otherwise be given the server's own port.
_PORTS = range(20_000, 30_000)


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on `port` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """Return a port that is free now and not among `taken`; OSError when none is found."""
    for port in random.sample(_PORTS, k=500):
        if port not in taken and port_is_free(port):
            return port
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop} on {LOOPBACK}")


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Ask `condition` until it holds or the time is over; return whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True


def http_ok(port: int, path: str) -> bool:
    """Say whether a loopback server answers a GET with 200, whatever proxies are configured."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
