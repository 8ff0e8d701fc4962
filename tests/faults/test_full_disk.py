"""Disks that fill up: the lake's own folder, and the disk of the object store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services import Services
from tests.support.processes import Worker
from tests.support.scene import STORE_URL, Scene
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

Mount = Callable[[Path, int], Path]


@pytest.fixture
def small_disk() -> Iterator[Mount]:
    """Mounts a disk of so many megabytes on a folder; skips, loudly, where that is not allowed."""
    with ExitStack() as stack:

        def mount(folder: Path, megabytes: int) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"NOT TESTED: a full disk; mounting one takes root ({done.stderr})")
            stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield mount


def fill(disk: Path, spare: int) -> Path:
    """Use up a disk but for some bytes; gives the file that does."""
    ballast = disk / "ballast"
    space = os.statvfs(disk)
    size = space.f_bavail * space.f_frsize - spare
    assert size > 0
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


@pytest.mark.fault("disk", "the disk of a lake in a local folder is full")
def test_the_lakes_own_disk(
    servers: Services, worker: Worker, tmp_path: Path, small_disk: Mount
) -> None:
    """The run fails as transient, names the setting, and leaves no half file; when there is space
    again the next one goes on."""
    disk = small_disk(tmp_path / "disk", 8)
    env = separate_environment(servers) | {"LAKE_URL": (disk / "lake").as_uri()}
    scene = Scene.new(worker, env, tmp_path)
    scene.send(1_500)
    assert scene.until_done() == []
    for spare in (0, 20_000):
        scene.send(3_000)
        ballast = fill(disk, spare)
        outcome = scene.start("run").wait()
        assert outcome.startswith("transient StoreUnavailable"), outcome
        assert "LAKE_URL" in outcome
        assert "space" in outcome
        ballast.unlink()
        assert not list(disk.rglob("._staged-*"))
    assert scene.until_done() == []
    scene.holds()


@pytest.mark.fault("disk", "the disk of the object store is full")
def test_the_disk_of_the_object_store(
    servers: Services, worker: Worker, tmp_path: Path, small_disk: Mount
) -> None:
    """The run fails as transient; when there is space again the next one goes on."""
    own = Services(tmp_path / "full")
    disk = small_disk(own.directory / "minio" / "data", 96)
    with ExitStack() as stack:
        stack.callback(own.down)
        own.up(["minio"])
        store = own.env()
        env = separate_environment(servers) | {k: store[k] for k in store if k.startswith("AWS_")}
        assert env[STORE_URL] != servers.env()[STORE_URL]
        scene = Scene.new(worker, env, tmp_path)
        scene.send(1_500)
        assert scene.until_done() == []
        scene.send(3_000)
        ballast = fill(disk, 0)
        outcome = scene.start("run").wait()
        assert outcome.startswith("transient StoreUnavailable"), outcome
        ballast.unlink()
        scene.until_done()
        scene.holds()
