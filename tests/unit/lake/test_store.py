"""One behaviour of every store: a local folder, and MinIO for any S3."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_platform.errors import Permanent, StoreUnavailable
from ingestion_platform.lake.land import ensure_sidecar
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.lake.store import Store, open_store, store_at
from ingestion_platform.settings import Settings
from services import Services
from tests.support.lake_files import put, segment_of

S3 = pytest.param("s3", marks=[pytest.mark.services])


@pytest.fixture(params=["local", S3])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose LAKE_URL names an empty store."""
    env = {"PLATFORM_HOME": str(tmp_path), "LAKE_URL": (tmp_path / "a lake%20é").as_uri()}
    if request.param == "s3":
        servers: Services = request.getfixturevalue("servers")
        env |= servers.env() | {"LAKE_URL": f"s3a://bucket-0/{uuid.uuid4()}/deep/"}
    return Settings.load(env, root=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    """An empty store."""
    return open_store(settings)


def test_an_object_is_created_once(store: Store) -> None:
    """A second creation is rejected, unless it has the very same content."""
    path = "topic=t/date=2026-11-20/partition=0/0000-0.parquet"
    assert store.create(path, b"one")
    assert not store.create(path, b"two")
    assert store.create(path, b"one")  # a retry after a lost reply
    assert store.read(path) == b"one"


def test_one_of_many_racing_creators_wins(store: Store) -> None:
    """Whatever is read afterwards is the winner's content, whole."""
    for n in range(5):
        contents = [bytes([65 + i]) * 300_000 for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(store.create, itertools.repeat(f"race/{n}"), contents))
        assert won.count(True) == 1
        assert store.read(f"race/{n}") == contents[won.index(True)]
    assert sorted(entry.path for entry in store.files("race")) == [f"race/{n}" for n in range(5)]


def test_writing_replaces(store: Store) -> None:
    """The newest content is read, by each way of reading."""
    for content in (b"old", b".", b"newer content"):
        store.write("folder/x.json", content)
        assert store.read("folder/x.json") == content
        assert store.tail("folder/x.json", 4) == content[-4:]
        assert store.tail("folder/x.json", 1000) == content
        assert [(e.path, e.size) for e in store.files("")] == [("folder/x.json", len(content))]


def test_listing(store: Store) -> None:
    """Files at any depth below a folder, and the folders directly below it."""
    paths = ["a=1/b=1/x", "a=1/b=1/y", "a=1/b=2/x", "a=1/z", "a=11/b=1/x", "a=1x"]
    for path in paths:
        store.write(path, b".")
    assert sorted(e.path for e in store.files("a=1/")) == paths[:4]
    assert sorted(e.path for e in store.files("a=1/b=1/")) == paths[:2]
    assert store.folders("a=1/") == ["b=1", "b=2"]
    assert store.folders("") == ["a=1", "a=11"]
    assert list(store.files("nothing/")) == []
    assert store.folders("nothing/") == []


def test_a_thousand_files_are_listed(store: Store) -> None:
    """More than a page of a listing."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.write(f"many/{n:04d}", b""), range(1100)))
    assert len(list(store.files("many/"))) == 1100


def test_what_is_not_there(store: Store) -> None:
    """Reading it is FileNotFoundError, removing it is fine, also twice."""
    for path in ("nothing", "no/such/folder/file"):
        for look in (store.read, lambda p: store.tail(p, 10)):
            with pytest.raises(FileNotFoundError):
                look(path)
        store.remove(path)
    store.write("x/y", b"1")
    store.remove("x/y")
    store.remove("x/y")
    assert list(store.files("")) == []
    assert store.create("x/y", b"2")


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 10, b"x" * 7_000_000])
def test_any_content_comes_back(store: Store, content: bytes) -> None:
    """Empty, binary, and larger than a part of an upload."""
    store.create("new", content)
    store.write("old", content)
    assert store.read("new") == store.read("old") == content


@pytest.mark.parametrize("name", ["topic=A.b-c_d", "topic=ä b+c%2F&?#"])
def test_names_are_taken_as_they_are(store: Store, name: str) -> None:
    """No character of a path is interpreted."""
    store.write(f"{name}/x", b"1")
    assert store.folders("") == [name]
    assert [e.path for e in store.files(f"{name}/")] == [f"{name}/x"]
    assert store.read(f"{name}/x") == b"1"


def test_large_files_are_stored_and_read_in_pieces(store: Store, tmp_path: Path) -> None:
    """A local file becomes an object; it stays where it is."""
    file = tmp_path / "file"
    for content in (b"", b"small", bytes(range(256)) * 100_000):
        file.write_bytes(content)
        store.write_file("zone/a b%20.csv", file)
        assert b"".join(store.chunks("zone/a b%20.csv")) == content
        assert file.exists()
        file.unlink()  # it may be the object itself: it must not be written to
    with pytest.raises(FileNotFoundError):
        list(store.chunks("zone/nothing"))


def test_an_entry_changes_with_its_object(store: Store) -> None:
    """Its size or its version; when it was written is told in UTC."""
    began = datetime.now(UTC) - timedelta(seconds=5)
    assert store.entry("zone/x") is None
    store.write("zone/x", b"one")
    one = store.entry("zone/x")
    assert one is not None
    assert (one.path, one.size) == ("zone/x", 3)
    assert began < one.modified < datetime.now(UTC) + timedelta(seconds=5)
    assert store.entry("zone/x") == one
    (listed,) = store.files("zone")
    assert (listed.path, listed.size, listed.version) == (one.path, one.size, one.version)
    store.write("zone/x", b"two")
    two = store.entry("zone/x")
    assert two is not None
    assert two.version != one.version


def test_a_listing_is_of_one_level(store: Store) -> None:
    """Objects and folders directly below."""
    for path in ("a/x", "a/b/y", "a/b/c/z", "a.d/x"):
        store.write(path, b".")
    entries, folders = store.listing("a/")
    assert [e.path for e in entries] == ["a/x"]
    assert folders == ["b"]
    assert store.listing("nothing/") == ([], [])


def test_renaming_moves_or_says_that_it_cannot(store: Store, settings: Settings) -> None:
    """An object store has no such step."""
    store.write("zone/x", b"1")
    before = store.entry("zone/x")
    assert before is not None
    moved = store.rename("zone/x", "zone/_taken/x")
    assert moved == settings.lake_url.startswith("file:")
    after = store.entry("zone/_taken/x" if moved else "zone/x")
    assert after is not None
    assert (after.version, after.size) == (before.version, before.size)
    assert not store.rename("zone/nothing", "zone/_taken/y")


def test_the_url_tells_where_it_is(store: Store, settings: Settings) -> None:
    """As the settings have it, in s3's own spelling."""
    assert store.url == settings.lake_url
    assert store.url.startswith(("file:///", "s3://"))


def test_a_sidecar_that_was_never_written_is_made_up_for(store: Store) -> None:
    """The writer died after the file and before its metadata."""
    put(store, segment_of("t", 0, 3))
    tail = SegmentLog(store, "t").tails([0])[0]
    for _ in range(2):
        ensure_sidecar(store, tail)
        assert b'"record_count": 3' in store.read(tail.name.sidecar)


@pytest.mark.services
def test_a_bucket_that_is_not_there_is_permanent(servers: Services, tmp_path: Path) -> None:
    """So are wrong credentials; both say which setting to look at, neither shows a secret."""
    settings = Settings.load(servers.env(), root=tmp_path)
    nowhere = store_at("s3://no-such-bucket/x", settings.s3)
    wrong = store_at(settings.lake_url, {**settings.s3, "secret_access_key": "hunter2"})
    uses: list[Callable[[Store], object]] = [
        lambda s: s.read("x"),
        lambda s: s.write("x", b""),
        lambda s: s.create("x", b""),
        lambda s: list(s.files("")),
        lambda s: s.folders(""),
    ]
    for store, setting in ((nowhere, "LAKE_URL"), (wrong, "AWS_ACCESS_KEY_ID")):
        for use in uses:
            with pytest.raises(Permanent, match=setting) as caught:
                use(store)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/x", "file:///dev/null/folder"])
def test_a_store_that_does_not_answer_is_transient(local_settings: Settings, url: str) -> None:
    """Nobody listens, or the disk refuses: trying again may help."""
    s3 = {"endpoint": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b"}
    settings = local_settings.replace(lake_url=url, s3=s3 | {"region": "us-east-1"})
    with pytest.raises(StoreUnavailable):
        open_store(settings).write("x", b"1")


def test_an_interrupted_write_leaves_nothing_to_list(tmp_path: Path) -> None:
    """A process that dies while it writes to a local folder leaves a file that nobody sees."""
    store = store_at(tmp_path.as_uri(), {})
    store.write("a/x", b"1")
    (tmp_path / "a" / "._staged-dead").write_bytes(b"half")
    assert [entry.path for entry in store.files("")] == ["a/x"]
