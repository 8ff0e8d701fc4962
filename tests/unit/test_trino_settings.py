"""Where Trino is, and that nothing needs one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_platform.errors import SettingError
from ingestion_platform.settings import Settings, TrinoSettings


def load(root: Path, **env: str) -> Settings:
    """Settings of these variables alone."""
    return Settings.load(env, root=root)


def test_without_a_host_there_is_none(tmp_path: Path) -> None:
    """The embedded engine does everything, whatever else is set."""
    assert load(tmp_path).trino is None
    assert load(tmp_path, TRINO_PORT="1", TRINO_USER="me").trino is None


def test_a_host_suffices(tmp_path: Path) -> None:
    """Port, user and catalog have the defaults that people expect."""
    assert load(tmp_path, TRINO_HOST="t").trino == TrinoSettings(
        host="t", port=8080, user="ingestion", catalog="lakehouse"
    )
    env = {"TRINO_HOST": "t", "TRINO_PORT": "81", "TRINO_USER": "me", "TRINO_CATALOG": "lake"}
    assert load(tmp_path, **env).trino == TrinoSettings(
        host="t", port=81, user="me", catalog="lake"
    )


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_rejected(tmp_path: Path, port: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingError, match="TRINO_PORT"):
        load(tmp_path, TRINO_HOST="t", TRINO_PORT=port)
