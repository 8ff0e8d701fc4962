"""`ingest serve` where it does not serve: making keys, and refusing to start."""

from __future__ import annotations

import hashlib
import re

import pytest

from ingestion_platform.settings import Settings
from tests.support.command_line import Ingest


def test_a_new_key_is_shown_once_with_its_entry(bare: Ingest) -> None:
    """The key, then what goes into HTTP_API_KEYS: its hash, not the key; each time another."""
    answers = [bare("serve", "--new-key", "shop") for _ in range(2)]
    keys = set()
    for answer in answers:
        assert answer.code == 0
        key, entry = answer.out.split()
        assert re.fullmatch(r"ik_[\w-]{43}", key)
        assert entry == f"shop:{hashlib.sha256(key.encode()).hexdigest()}"
        assert Settings.load({"HTTP_API_KEYS": entry}).http_api.api_keys.keys() == {"shop"}
        keys.add(key)
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["a b", "a:b", "a,b", ""])
def test_a_client_needs_a_name_that_settings_can_hold(bare: Ingest, name: str) -> None:
    """A name that would break the setting is wrong use."""
    assert bare("serve", "--new-key", name).code == 2


def test_a_api_that_nobody_could_use_does_not_start(bare: Ingest) -> None:
    """Without keys, and without switching them off, the command says what to set."""
    answer = bare("serve", "--port", "1")
    assert answer.code == 2
    assert "HTTP_API_KEYS" in answer.err
    assert "HTTP_API_AUTH=off" in answer.err
