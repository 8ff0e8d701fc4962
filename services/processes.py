"""Detached server processes and their identity, so that only what was started here is ended.

Which servers there are, and when one is ready, is not known here.
"""

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.net import wait_until

_PROC = Path("/proc")
# Kept so that ended children of this very process can be reaped.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


@dataclass(frozen=True)
class Identity:
    """One run of one process: a recycled pid has another start time, a reboot another boot id."""

    pid: int
    started: int
    boot: str


def supported() -> bool:
    """Say whether this system shows the start times of processes (Linux does)."""
    return (_PROC / "self" / "stat").exists()


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    folder: Path,
    env: Mapping[str, str],
    user: str | None = None,
) -> Identity:
    """Start a process in a session of its own, writing to `log`, and return its identity.

    Raises OSError when the program cannot be executed or the user cannot be assumed.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=env,
            start_new_session=True,
            user=user,
            group=group_of(user),
            extra_groups=None if user is None else [],
        )
    _children[child.pid] = child
    identity = identify(child.pid)
    # Our own child stays visible until it is reaped, even when it ends at once.
    assert identity is not None
    return identity


def group_of(user: str | None) -> int | None:
    """Return the account's own group, None for None; KeyError when there is no such account."""
    return None if user is None else pwd.getpwnam(user).pw_gid


def identify(pid: int) -> Identity | None:
    """Return the identity of the process that has `pid` now, or None when there is none."""
    fields = _stat(pid)
    return Identity(pid, int(fields[19]), _boot_id()) if fields else None


def alive(identity: Identity) -> bool:
    """Say whether that very process still runs; an ended one waiting to be reaped does not."""
    child = _children.get(identity.pid)
    if child is not None and child.poll() is not None:
        del _children[identity.pid]
    fields = _stat(identity.pid)
    return bool(fields) and fields[0] != "Z" and identify(identity.pid) == identity


def end(identity: Identity, sign: signal.Signals, grace_s: float) -> bool:
    """Ask the process to end, kill it and its descendants after `grace_s`; False if they stay.

    A process that is not the one of `identity` is never signalled. Raises PermissionError
    when it belongs to another user.
    """
    _send(identity, sign)
    if wait_until(lambda: not alive(identity), grace_s):
        return True
    return kill(identity)


def kill(identity: Identity) -> bool:
    """Kill the process and its descendants at once; return whether all of them ended.

    Raises PermissionError when it belongs to another user.
    """
    family = [identity, *_descendants(identity)] if alive(identity) else []
    for member in family:
        _send(member, signal.SIGKILL)
    return wait_until(lambda: not any(alive(member) for member in family), 10)


def _send(identity: Identity, sign: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor pins the process, so the pid cannot be recycled after this check.
        if alive(identity):
            signal.pidfd_send_signal(descriptor, sign)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _descendants(ancestor: Identity) -> list[Identity]:
    parents = {int(entry.name): _parent(entry) for entry in _PROC.iterdir() if entry.name.isdigit()}
    family = {ancestor.pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    found = (identify(pid) for pid in family - {ancestor.pid})
    return [identity for identity in found if identity]


def _parent(entry: Path) -> int:
    fields = _stat(int(entry.name))
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third (state) on, [] when it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The second field is the program's name in brackets and may itself hold blanks and brackets.
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
