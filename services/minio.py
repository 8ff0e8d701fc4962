"""MinIO: one object store on the local disk with the bucket that the platform writes to.

What is inside the bucket is the platform's business.
"""

import importlib
import importlib.util
import logging
import os
import shutil
from pathlib import Path

from services.errors import Unavailable
from services.files import cached
from services.net import LOOPBACK, http_ok
from services.processes import Identity
from services.service import Service, run_tool

logger = logging.getLogger(__name__)

_MODULE = "github.com/minio/minio"
_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
_REGION = "us-east-1"

BUCKET = "bucket-0"


class Minio(Service):
    """One MinIO server with its bucket."""

    name = "minio"
    port_names = ("api",)
    secret_names = ("access_key", "secret_key")

    def install(self) -> None:
        """Compile MinIO into the cache.

        Raises Unavailable without pyarrow or, the first time, without Go.
        """
        if importlib.util.find_spec("pyarrow") is None:
            raise Unavailable(self.name, "pyarrow", "install the platform's Python packages")
        _program()

    def start(self) -> Identity:
        """Start the server on its data folder."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MINIO_")}
        environment |= {
            "MINIO_ROOT_USER": self.record.secrets["access_key"],
            "MINIO_ROOT_PASSWORD": self.record.secrets["secret_key"],
            "MINIO_REGION": _REGION,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        address = f"{LOOPBACK}:{self.record.ports['api']}"
        options = ["--quiet", "--certs-dir", "certificates", "--address", address]
        return self.spawn([str(_program()), "server", *options, "data"], env=environment)

    def ready(self) -> bool:
        """Say whether the server reports itself ready to serve requests."""
        return http_ok(self.record.ports["api"], "/minio/health/ready")

    def prepare(self) -> None:
        """Create the bucket unless it exists; OSError while the server still refuses requests."""
        # Imported late: only this needs more than the standard library.
        pyarrow_fs = importlib.import_module("pyarrow.fs")
        store = pyarrow_fs.S3FileSystem(
            access_key=self.record.secrets["access_key"],
            secret_key=self.record.secrets["secret_key"],
            endpoint_override=f"{LOOPBACK}:{self.record.ports['api']}",
            scheme="http",
            region=_REGION,
            allow_bucket_creation=True,
        )
        store.create_dir(BUCKET, recursive=False)

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return the lake's address and the credentials of the object store."""
        store = {
            "ENDPOINT": f"http://{LOOPBACK}:{self.record.ports['api']}",
            "ACCESS_KEY_ID": self.record.secrets["access_key"],
            "SECRET_ACCESS_KEY": self.record.secrets["secret_key"],
            "REGION": _REGION,
        }
        return {
            "LAKE_URL": f"s3://{BUCKET}/master_dataset",
            "AWS_ENDPOINT_URL": store["ENDPOINT"],
            **{f"AWS_{name}": value for name, value in store.items() if name != "ENDPOINT"},
            # PyIceberg does not read AWS_ENDPOINT_URL.
            **{f"PYICEBERG_CATALOG__LAKEHOUSE__S3__{name}": v for name, v in store.items()},
        }


def _program() -> Path:
    return cached(f"minio-{_VERSION}", _compile) / "minio"


def _compile(target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable("minio", "Go", "install Go 1.24 or newer and put it on PATH")
    logger.info("minio: compiling, this once; it takes some minutes")
    environment = {**os.environ, "GOBIN": str(target), "GOFLAGS": "-trimpath"}
    run_tool(
        "minio",
        [go, "install", f"{_MODULE}@{_VERSION}"],
        "check that Go is 1.24 or newer and can reach a module proxy, then `up minio` again",
        env=environment,
    )
