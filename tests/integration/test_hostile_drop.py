"""Whoever may drop files cannot stop, fill or read the host: no entry of a drop zone keeps another
one from being landed, and none is read that is not a regular file inside of it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.files.spool import NoRoom, Spool
from ingestion_platform.lake import file_source as door_module
from ingestion_platform.lake.file_source import FilesRefused, Handled
from ingestion_platform.lake.guarded import GuardedStore
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import FileLimits, Settings, WorkerSettings
from ingestion_platform.streams import FileSource, Stream
from ingestion_platform.worker.tasks import FilesTask
from services import Services
from tests.support.grievances import EVENT, as_csv
from tests.support.testbed import new_stream, separate_environment

SECRET = b"TENANT_OF_ANOTHER_USER"
Make = Callable[[Path, Path], None]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Stores in folders of the test's own; files settle at once."""
    env = {"PLATFORM_HOME": str(tmp_path / "home"), "DROP_SETTLE_SECONDS": "0"}
    return Platform(Settings.load(env, root=tmp_path))


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """A stream of files alone."""
    return replace(new_stream(tmp_path), partitions=0)


@pytest.fixture
def zone(platform: Platform, stream: Stream) -> Path:
    """The folder of its drop zone."""
    folder = platform.settings.home / "drop" / stream.file_source.folder
    folder.mkdir(parents=True)
    return folder


def good(zone: Path, name: str = "good.csv", **changed: Any) -> None:
    """Drop a file of one event."""
    (zone / name).parent.mkdir(parents=True, exist_ok=True)
    (zone / name).write_bytes(as_csv([EVENT | changed]))


def run(platform: Platform, stream: Stream) -> list[Handled]:
    """Run the stream; gives what became of the files."""
    handled: list[Handled] = []
    with suppress(FilesRefused):
        run_stream(platform, stream, on_file=handled.append)
    return handled


def outcomes(handled: list[Handled]) -> dict[str, str]:
    """What became of each file, by name."""
    return {each.name: each.outcome for each in handled}


def files_with_secret(platform: Platform) -> list[Path]:
    """Regular files of the platform that have the content of another user's file."""
    found = [f for f in platform.settings.home.rglob("*") if f.is_file() and not f.is_symlink()]
    return [file for file in found if SECRET in file.read_bytes()]


def fifo(path: Path, outside: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def listening(path: Path, outside: Path) -> None:
    """A socket."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def to_zero(path: Path, outside: Path) -> None:
    """A link to a file without an end."""
    path.symlink_to("/dev/zero")


def to_secret(path: Path, outside: Path) -> None:
    """A link to a file that the service may read."""
    path.symlink_to(outside / "secret.csv")


def to_folder(path: Path, outside: Path) -> None:
    """A link to a folder of such files, named like a file."""
    path.symlink_to(outside)


def to_itself(path: Path, outside: Path) -> None:
    """A folder without a bottom."""
    path.symlink_to(".")


def hard_segment(path: Path, outside: Path) -> None:
    """Another name of a file that the service may read."""
    os.link(outside / "secret.csv", path)


STRANGERS: dict[str, tuple[Make, str]] = {
    "pipe.csv": (fifo, "is a named pipe"),
    "socket.csv": (listening, "is a socket"),
    "zero.csv": (to_zero, "is a symbolic link"),
    "secret.csv": (to_secret, "is a symbolic link"),
    "folder.csv": (to_folder, "is a symbolic link"),
    "loop.csv": (to_itself, "is a symbolic link"),
    "hard.csv": (hard_segment, r"has [23] names \(hard links\)"),
}


def test_only_regular_files_are_taken(
    platform: Platform, stream: Stream, zone: Path, tmp_path: Path
) -> None:
    """Anything else is moved aside unread, with the reason, also where a run has left it."""
    outside = tmp_path / "outside"
    good(outside, "secret.csv", tenant_id=SECRET.decode())
    (zone / "_taken").mkdir()
    for name, (make, _) in STRANGERS.items():
        make(zone / name, outside)
        make(zone / "_taken" / f"0a1b2c3d@taken {name}", outside)
    good(zone)
    first, *others = run(platform, stream)
    assert (first.name, first.outcome) == ("good.csv", "landed")
    assert outcomes(others) == {
        f"{prefix}{name}": "refused" for name in STRANGERS for prefix in ("", "taken ")
    }
    for each in others:
        assert re.match(STRANGERS[each.name.removeprefix("taken ")][1], each.detail)
        assert "/_refused/" in each.kept
        assert platform.drop.read(f"{each.kept}.reason.txt").decode().startswith(each.name)
    assert run(platform, stream) == []
    secret = outside / "secret.csv"
    assert [f for f in files_with_secret(platform) if not f.samefile(secret)] == []
    assert SECRET in secret.read_bytes()


NAMES = {
    b"bad\xff.csv": ("is not UTF-8", r"bad\xff.csv"),
    b"two\nlines.csv": ("control characters", r"two\nlines.csv"),
    b"esc\x1b[31m.csv": ("control characters", r"esc\x1b[31m.csv"),
    "gpj.\u202evsc.csv".encode(): ("control characters", r"gpj.\u202evsc.csv"),
    b"--help.csv": ("looks like an option", "--help.csv"),
    b"sub\n/a.csv": ("control characters", r"sub\n/a.csv"),
}


def test_unusable_names_are_set_aside(platform: Platform, stream: Stream, zone: Path) -> None:
    """Their files are told by a name that can be shown."""
    for name in NAMES:
        path = zone / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(as_csv([EVENT | {"entity_id": "x"}]))
    good(zone)
    first, *others = run(platform, stream)
    assert first.outcome == "landed"
    assert outcomes(others) == {shown: "refused" for _, shown in NAMES.values()}
    reasons = {shown: reason for reason, shown in NAMES.values()}
    for each in others:
        assert reasons[each.name] in each.detail
        assert platform.drop.entry(each.kept) is not None
    assert run(platform, stream) == []


def test_longest_names_are_landed_and_rejected(
    platform: Platform, stream: Stream, zone: Path
) -> None:
    """A name of 255 bytes, in folders, leaves room for what is added to it."""
    name = "é" * 124 + "a.csv"
    good(zone, name.replace("a.csv", "ab.csv"))
    (zone / name).write_bytes(b"a,b\n1\n")
    good(zone, f"{'d' * 200}/{'e' * 200}/x.csv", entity_id="2")
    assert sorted(outcomes(run(platform, stream)).values()) == ["landed", "landed", "refused"]
    assert run(platform, stream) == []


OWN = ("_taken", "_archive", "_refused", "_skipped")


@pytest.mark.parametrize("make", [to_folder, fifo], ids=["segment", "pipe"])
def test_strangers_in_place_of_own_folders(
    platform: Platform, stream: Stream, zone: Path, tmp_path: Path, make: Make
) -> None:
    """They are set aside first; nothing is written through a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for own in OWN:
        make(zone / own, outside)
    good(zone)
    handled = run(platform, stream)
    assert outcomes(handled) == {**dict.fromkeys(OWN, "refused"), "good.csv": "landed"}
    assert list(outside.iterdir()) == []
    assert run(platform, stream) == []


def test_swapped_entries_gain_nothing(
    platform: Platform, stream: Stream, zone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link takes the place of a file between its check and its use, also as a folder."""
    outside = tmp_path / "outside"
    good(outside, "a.csv", tenant_id=SECRET.decode())
    good(zone, "a.csv")
    good(zone, "sub/a.csv", entity_id="2")
    rename = GuardedStore.rename

    def swapped(store: GuardedStore, path: str, to: str) -> bool:
        if path.endswith("sub/a.csv") and not (zone / "sub").is_symlink():
            (zone / "sub").rename(tmp_path / "was sub")
            (zone / "sub").symlink_to(outside)
        elif (zone / "a.csv").is_file() and not (zone / "a.csv").is_symlink():
            (zone / "a.csv").unlink()
            (zone / "a.csv").symlink_to(outside / "a.csv")
        return rename(store, path, to)

    monkeypatch.setattr(GuardedStore, "rename", swapped)
    handled = run(platform, stream)
    monkeypatch.undo()
    handled += run(platform, stream)
    assert {each.outcome for each in handled} <= {"refused"}
    assert files_with_secret(platform) == []


def test_file_that_never_ends_growing_waits(
    platform: Platform, stream: Stream, zone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying ends at the size that it had; the others land."""
    good(zone, "a.csv")
    good(zone, "b.csv", entity_id="2")
    chunks = GuardedStore.chunks
    read = 0

    def growing(store: GuardedStore, path: str) -> Any:
        nonlocal read
        yield from chunks(store, path)
        while path.endswith("@a.csv") and read < 1000:
            read += 1
            yield b"x" * 1024

    monkeypatch.setattr(GuardedStore, "chunks", growing)
    assert outcomes(run(platform, stream)) == {"a.csv": "changing", "b.csv": "landed"}
    assert read == 1


def test_size_is_checked_before_reading(platform: Platform, stream: Stream, zone: Path) -> None:
    """A sparse file of a terabyte; a stream may have a limit of its own."""
    with (zone / "huge.csv").open("wb") as file:
        file.truncate(1 << 40)
    good(zone)
    large = replace(stream, files=FileSource(stream.file_source.folder, max_size=10))
    second, first = run(platform, stream)
    assert (first.outcome, second.name, second.outcome) == ("landed", "huge.csv", "refused")
    assert "has more than 4.0 GiB, the most that is taken" in second.detail
    good(zone, "other.csv", entity_id="2")
    assert "has more than 10 bytes" in run(platform, large)[0].detail
    assert run(platform, stream) == []


def test_no_room_for_one_leaves_room_for_others(
    platform: Platform, stream: Stream, zone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, and the run says so after the others have landed."""
    good(zone, "a.csv", entity_id="x" * 5000)
    good(zone, "b.csv")

    def need(spool: Spool, size: int) -> None:
        if size > 5000:
            raise NoRoom("no room")

    monkeypatch.setattr(Spool, "need", need)
    handled: list[Handled] = []
    with pytest.raises(StoreUnavailable, match="no room"):
        run_stream(platform, stream, on_file=handled.append)
    assert outcomes(handled) == {"a.csv": "waiting", "b.csv": "landed"}
    monkeypatch.undo()
    assert outcomes(run(platform, stream)) == {"a.csv": "landed"}


def test_deep_folders_and_folders_like_files(
    platform: Platform, stream: Stream, zone: Path
) -> None:
    """A folder may have any name; below 32 of them nothing is looked for, and that is said once."""
    good(zone, "folder.csv/inner.csv")
    good(zone, "/".join("d" * 33) + "/deep.csv", entity_id="2")
    first, second = run(platform, stream)
    assert (first.name, first.outcome) == ("folder.csv/inner.csv", "landed")
    assert (second.outcome, second.detail) == ("refused", "lies deeper than 32 folders")
    assert run(platform, stream) == []


def test_thousands_of_strangers_keep_nobody_waiting(
    platform: Platform, stream: Stream, zone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files land first; the strangers go in portions."""
    monkeypatch.setattr(door_module, "STRANGE", 50)
    for number in range(120):
        (zone / f"{number}.csv").symlink_to(".")
    good(zone)
    handled = run(platform, stream)
    assert (handled[0].name, handled[0].outcome, len(handled)) == ("good.csv", "landed", 51)
    assert [len(run(platform, stream)) for _ in range(3)] == [50, 20, 0]


def test_locked_files_wait_for_their_writer(platform: Platform, stream: Stream, zone: Path) -> None:
    """A lock held for ever keeps its own file only."""
    good(zone, "a.csv")
    good(zone, "b.csv", entity_id="2")
    with (zone / "a.csv").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert outcomes(run(platform, stream)) == {"a.csv": "changing", "b.csv": "landed"}
    assert outcomes(run(platform, stream)) == {"a.csv": "landed"}


def test_files_that_vanish_are_nobodys_loss(
    platform: Platform, stream: Stream, zone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the reading."""
    good(zone, "a.csv")
    good(zone, "b.csv", entity_id="2")
    rename = GuardedStore.rename

    def late(store: GuardedStore, path: str, to: str) -> bool:
        (zone / "a.csv").unlink(missing_ok=True)
        return rename(store, path, to)

    monkeypatch.setattr(GuardedStore, "rename", late)
    assert outcomes(run(platform, stream)) == {"b.csv": "landed"}


def test_worker_goes_on_past_strangers(
    platform: Platform, stream: Stream, zone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says once what it cannot take, and once that a file is not ready."""
    good(zone)
    os.mkfifo(zone / "pipe.csv")
    good(zone, "locked.csv", entity_id="2")
    task = FilesTask(platform, stream, WorkerSettings(), [], threading.Event())
    with (zone / "locked.csv").open("ab") as file, caplog.at_level("INFO"):
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(3):
            task.step()
    said = [r.getMessage().partition("file ")[2] for r in caplog.records if "file " in r.msg]
    assert sorted(each.partition(":")[0] for each in said) == [
        "good.csv landed",
        "locked.csv changing",
        "pipe.csv refused",
    ]


def unprivileged(platform: Platform, stream: Stream) -> dict[str, Any]:
    """Run the stream in a process for which the permissions of files hold."""
    script = Path(__file__).parents[1] / "support" / "hostile_run.py"
    home = platform.settings.home
    command = [sys.executable, str(script), str(home), str(stream.contract_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_rights_others_land(platform: Platform, stream: Stream, tmp_path: Path) -> None:
    """Unreadable files and folders are told once; what cannot be moved is skipped."""
    zone = platform.settings.home / "drop" / "hostile"
    good(zone, "good.csv")
    good(zone, "unreadable.csv", entity_id="2")
    (zone / "unreadable.csv").chmod(0)
    good(zone, "closed/a.csv", entity_id="3")
    (zone / "closed").chmod(0)
    good(zone, "names only/a.csv", entity_id="4")
    (zone / "names only").chmod(0o444)
    good(zone, "fixed/a.csv", entity_id="5")
    (zone / "fixed").chmod(0o555)
    try:
        first = unprivileged(platform, stream)
        said = {each["name"]: each for each in first["handled"]}
        assert {name: each["outcome"] for name, each in said.items()} == {
            "good.csv": "landed",
            "unreadable.csv": "refused",
            "closed/": "refused",
            "names only/a.csv": "refused",
            "fixed/a.csv": "refused",
        }
        assert "Permission denied" in said["unreadable.csv"]["detail"]
        assert "/_refused/" in said["unreadable.csv"]["kept"]
        assert "cannot be moved, and is skipped" in said["fixed/a.csv"]["detail"]
        assert "FilesRefused: 4 files were refused" in first["error"]
        assert unprivileged(platform, stream) == {"handled": [], "error": ""}
        (zone / "fixed").chmod(0o755)
        os.utime(zone / "fixed" / "a.csv")  # it is another one now
        again = unprivileged(platform, stream)
        assert [(e["name"], e["outcome"]) for e in again["handled"]] == [("fixed/a.csv", "landed")]
    finally:
        for folder in (zone / "closed", zone / "names only", zone / "fixed"):
            if folder.exists():
                folder.chmod(0o755)
        shutil.rmtree(platform.settings.home)


@pytest.mark.services
def test_objects_that_cannot_be_taken_are_told_once(
    servers: Services, stream: Stream, tmp_path: Path
) -> None:
    """In S3 nothing can be moved: what is too large, or badly named, is skipped."""
    env = separate_environment(servers) | {"DROP_SETTLE_SECONDS": "0"}
    env |= {"PLATFORM_HOME": str(tmp_path / "home")}
    env["DROP_URL"] = env["LAKE_URL"].replace("master_dataset", "drop")
    platform = Platform(Settings.load(env, root=tmp_path))
    platform.settings = platform.settings.replace(files=FileLimits(max_size=2000))
    folder = stream.file_source.folder
    platform.drop.write(f"{folder}/large.csv", as_csv([EVENT] * 20))
    platform.drop.write(f"{folder}/-x.csv", as_csv([EVENT]))
    platform.drop.write(f"{folder}/good.csv", as_csv([EVENT]))
    expected = {"large.csv": "refused", "good.csv": "landed", "-x.csv": "refused"}
    assert outcomes(run(platform, stream)) == expected
    assert run(platform, stream) == []
    assert [e.path for e in platform.drop.listing(f"{folder}/")[0]] == [
        f"{folder}/-x.csv",
        f"{folder}/large.csv",
    ]
    platform.drop.remove(f"{folder}/-x.csv")
    assert run(platform, stream) == []
    assert len(platform.drop.listing(f"{folder}/_skipped/")[0]) == 1
