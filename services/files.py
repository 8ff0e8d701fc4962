"""Files shared between processes: locks, private files, the download cache, log tails.

What is written to them is decided by the callers.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` against other threads and processes.

    Raises OSError when the lock file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us may have purged the file: then our lock guards nothing.
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_private(path: Path, text: str) -> None:
    """Replace `path` atomically by `text`, readable by its owner only.

    Raises OSError when the folder is not writable.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def tail(path: Path, lines: int = 25) -> str:
    """Return the last lines of a text file, or "" when there is none yet."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 64 * 1024))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:])


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the user's cache, calling `build` on an empty one if missing.

    The folder appears only when `build` returned; of two processes one builds, the other waits.
    Raises whatever `build` raises, and OSError when the cache is not writable.
    """
    root = _cache_root()
    target = root / name
    if target.is_dir():
        return target
    with locked(root / f"{name}.lock"):
        if not target.is_dir():
            _build_aside(target, build)
    return target


def _build_aside(target: Path, build: Callable[[Path], None]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(aside)
        aside.chmod(0o755)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ingestion-platform"
