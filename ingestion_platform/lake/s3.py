"""A bucket of S3, or a prefix in it, as a Store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ingestion_platform.errors import Permanent, StoreUnavailable
from ingestion_platform.lake.store import CHUNK, Entry
from ingestion_platform.retries import CREATE, retry

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store as Client
    from pyarrow.fs import S3FileSystem


class S3Store:
    """A bucket, or a prefix in it, of AWS S3, MinIO or another S3 server."""

    def __init__(
        self, url: str, bucket: str, prefix: str, s3: Mapping[str, str], setting: str
    ) -> None:
        from obstore.store import S3Store as Client

        self._url = url
        self._setting = setting
        self._bucket, self._prefix, self._s3 = bucket, prefix, s3
        config: Any = {**s3, "virtual_hosted_style_request": False}
        plain = s3.get("endpoint", "").startswith("http://")
        self._client: Client = Client(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={"allow_http": plain, "timeout": "60s", "connect_timeout": "5s"},
            retry_config={"max_retries": 5},
        )

    @property
    def url(self) -> str:
        """See Store."""
        return self._url

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        from obstore.exceptions import AlreadyExistsError, GenericError

        def attempt() -> bool:
            try:
                self._client.put(path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return self.read(path) == data
            return True

        with self._errors(path):
            # The client does not repeat a conditional request whose connection broke, because it
            # may have succeeded. Repeating it is safe here, because contents are compared.
            return retry(attempt, CREATE, GenericError)

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        with self._errors(path):
            self._client.put(path, data, use_multipart=False)

    def read(self, path: str) -> bytes:
        """See Store."""
        with self._errors(path):
            return bytes(self._client.get(path).bytes())

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with self._errors(path):
            return bytes(self._client.get(path, options={"range": {"suffix": size}}).bytes())

    def chunks(self, path: str) -> Iterator[bytes]:
        """See Store."""
        with self._errors(path):
            for chunk in self._client.get(path).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def write_file(self, path: str, source: Path) -> None:
        """See Store."""
        with self._errors(path), source.open("rb") as file:
            self._client.put(path, file, chunk_size=CHUNK, max_concurrency=2)

    def entry(self, path: str) -> Entry | None:
        """See Store."""
        with self._errors(path):
            try:
                return _remote_entry(self._client.head(path))
            except FileNotFoundError:
                return None

    def rename(self, path: str, to: str) -> bool:
        """See Store: always False, because S3 can only copy and delete."""
        return False

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        with self._errors(prefix):
            for chunk in self._client.list(prefix):
                for found in chunk:
                    yield _remote_entry(found)

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """See Store."""
        from obstore.exceptions import InvalidPathError

        with self._errors(prefix):
            try:
                found = self._client.list_with_delimiter(prefix)
            except InvalidPathError:
                return self._listing_of_any_keys(prefix)
        folders = sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])
        # Some tools mark a folder by an object of the folder's own name.
        objects = [each for each in found["objects"] if f"{each['path']}/" != prefix]
        return [_remote_entry(each) for each in objects], folders

    def _listing_of_any_keys(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """Return the same where a folder has keys that obstore cannot name; those get a problem."""
        from pyarrow.fs import FileSelector, FileType

        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        selector = FileSelector(f"{root}/{prefix}".rstrip("/"), allow_not_found=True)
        entries: list[Entry] = []
        folders: list[str] = []
        for found in self._any_keys().get_file_info(selector):
            path = found.path.removeprefix(f"{root}/")
            if found.type == FileType.Directory:
                name = path.rsplit("/", 1)[-1]
                if name and not _unnameable(path):
                    folders.append(name)
            elif _unnameable(path):
                version = f"{found.mtime}-{found.size}"
                entries.append(Entry(path, found.size, found.mtime, version, _NO_NAME))
            elif (entry := self.entry(path)) is not None:
                entries.append(entry)
        return entries, sorted(set(folders))

    def _any_keys(self) -> S3FileSystem:
        from pyarrow.fs import S3FileSystem

        endpoint = urlsplit(self._s3.get("endpoint", ""))
        return S3FileSystem(
            access_key=self._s3.get("access_key_id"),
            secret_key=self._s3.get("secret_access_key"),
            session_token=self._s3.get("session_token"),
            region=self._s3.get("region"),
            scheme=endpoint.scheme or "https",
            endpoint_override=endpoint.netloc or None,
        )

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        return self.listing(prefix)[1]

    def remove(self, path: str) -> None:
        """See Store."""
        with self._errors(path):
            try:
                self._client.delete(path)
            except FileNotFoundError:
                return

    def _errors(self, path: str) -> AbstractContextManager[None]:
        return _remote_errors(self._url, path, self._setting)


_NO_NAME = "has a key with an empty or relative part, or with control characters"


def _unnameable(path: str) -> bool:
    """Return whether obstore cannot name an object of that key."""
    parts = path.rstrip("/").split("/")
    controls = any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
    return controls or not {"", ".", ".."}.isdisjoint(parts)


def _remote_entry(found: ObjectMeta) -> Entry:
    version = found["e_tag"] or found["version"] or str(found["last_modified"])
    return Entry(found["path"], found["size"], found["last_modified"], version)


# obstore has no exception for these answers to a listing.
_FORBIDDEN = ("403 Forbidden", "401 Unauthorized")


@contextmanager
def _remote_errors(url: str, path: str, setting: str) -> Iterator[None]:
    from obstore.exceptions import (
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        text = str(error)
        if "NoSuchBucket" in text:
            raise Permanent(
                f"there is no bucket for {url}", action=f"create it, or correct {setting}"
            ) from None
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise FileNotFoundError(f"{url}/{path}") from None
        rejected = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if rejected or any(status in text for status in _FORBIDDEN):
            raise Permanent(
                f"{url} refuses {path or 'the listing'}",
                action="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ) from None
        raise StoreUnavailable(
            f"{url} does not answer for {path or 'the listing'}: {type(error).__name__}",
            action="check AWS_ENDPOINT_URL and that its server is up",
        ) from error
