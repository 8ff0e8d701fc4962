"""Accounts for servers that refuse to run as root, and folders that such an account can reach.

Which servers those are, and what they keep there, is their own modules' business.
"""

import os
import pwd
import stat
import tempfile
from pathlib import Path

from services.service import Record


def account() -> str | None:
    """Return the account to run such a server as, None for the caller's own if it is not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def give(folder: Path, to: str | None) -> None:
    """Make an account the owner of a folder or file; None leaves it to the caller."""
    if to:
        entry = pwd.getpwnam(to)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def open_to_all(folder: Path) -> bool:
    """Say whether every account can pass through the folder and all above it."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in [folder, *folder.parents])


def reachable_folder(folder: Path, record: Record, service: str, name: str) -> Path:
    """Return `folder`/`name`, or one outside that the record keeps, if the account cannot get
    there; it exists and is the account's."""
    owner = account()
    place = folder / name
    if owner is not None and not open_to_all(folder):
        known = record.places.get("data")
        if known is None or not Path(known).is_dir():
            known = tempfile.mkdtemp(prefix=f"{service}-")
            record.places["data"] = known
        place = Path(known)
    place.mkdir(exist_ok=True)
    give(place, owner)
    return place
