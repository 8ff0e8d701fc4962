"""A run of a stream of files without the rights of root: `python hostile_run.py HOME CONTRACT`.

Writes what became of each file to standard output, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def drop_capabilities() -> None:
    """Make the permissions of files hold for this process, whatever user it is of."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def main(home: Path, contract: Path) -> None:
    """Run the stream once."""
    if os.geteuid() == 0:
        drop_capabilities()
    from ingestion_platform.errors import PlatformError
    from ingestion_platform.pipeline import run_stream
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import Stream

    env = {"PLATFORM_HOME": str(home), "DROP_SETTLE_SECONDS": "0"}
    stream = Stream("hostile", "test", "hostile", contract, "hostile", partitions=0)
    handled: list[dict[str, Any]] = []
    error = ""
    try:
        run_stream(
            Platform(Settings.load(env, root=home)),
            stream,
            on_file=lambda each: handled.append(asdict(each) | {"claim": None}),
        )
    except PlatformError as raised:
        error = f"{type(raised).__name__}: {raised}"
    json.dump({"handled": handled, "error": error}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
