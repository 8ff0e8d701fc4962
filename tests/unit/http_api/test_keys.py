"""API keys: who has none sends nothing; keys themselves are kept nowhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_platform.errors import SettingError
from ingestion_platform.http_api import server
from ingestion_platform.http_api.limits import key_hash, new_key
from ingestion_platform.settings import Settings
from tests.support.api_lab import USER, Served

Serve = Callable[..., Served]


def keyed(serve: Serve) -> tuple[Served, str]:
    """An API for two clients, and the key of `shop`."""
    key, digest = new_key()
    return serve(auth=True, api_keys={"other": key_hash("x"), "shop": digest}), key


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer "])
def test_key_is_accepted_in_both_headers(serve: Serve, scheme: str) -> None:
    """Both ways of sending a key are known."""
    served, key = keyed(serve)
    body = json.dumps(USER)
    for header, value in (("authorization", scheme + key), ("x_api_key", key)):
        answer = served.records("recomart_users", body, **{header: value})
        assert answer.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic eDp4"},
    ],
)
def test_unknown_key_is_unauthorized(serve: Serve, headers: dict[str, str]) -> None:
    """401 before the body is read, for every path but health and description."""
    served, _ = keyed(serve)
    for path in ("/v1/streams/recomart_users/records", "/users", "/nothing"):
        answer = served.http.post(path, json=USER, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert served.http.get("/metrics", headers=headers).status_code == 401
    for path in ("/health", "/healthz", "/readyz", "/openapi.json"):
        assert served.http.get(path, headers=headers).status_code == 200
    assert served.sent("recomart_users") == []


def test_hash_of_key_is_unauthorized(serve: Serve) -> None:
    """Who has read the configuration cannot send."""
    served, key = keyed(serve)
    answer = served.records("recomart_users", json.dumps(USER), x_api_key=key_hash(key))
    assert answer.status_code == 401


def test_access_log_has_client_but_no_secret(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """One message per request, without key, body or query."""
    served, key = keyed(serve)
    with caplog.at_level(logging.INFO, "ingestion_platform.http_api.access"):
        served.http.post(f"/users?secret={key}", json=USER, headers={"x-api-key": key})
    (record,) = [r for r in caplog.records if r.name.endswith("access")]
    line = vars(record)["fields"] | {"message": record.message}
    assert {k: line[k] for k in ("client", "method", "path", "status", "stream", "delivered")} == {
        "client": "shop",
        "method": "POST",
        "path": "/users",
        "status": 201,
        "stream": "recomart_users",
        "delivered": 1,
    }
    for secret in (key, "secret", "Mobile"):
        assert secret not in json.dumps(line)


def test_api_without_keys_does_not_start(local_settings: Settings) -> None:
    """The error names the setting and the way to make a key."""
    with pytest.raises(SettingError, match="HTTP_API_KEYS") as caught:
        server.serve(local_settings, "127.0.0.1", 1)
    assert "--new-key" in caught.value.action


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("shop", "entry 1"),
        ("shop:abc", "entry 1"),
        (f"a:{'0' * 64},b c:{'0' * 64}", "entry 2"),
        (f"a:{'0' * 64},a:{'1' * 64}", "repeats"),
    ],
)
def test_malformed_keys_are_named_not_shown(tmp_path: Path, value: str, problem: str) -> None:
    """Somebody may have put a key where its hash belongs."""
    with pytest.raises(SettingError, match=problem) as caught:
        Settings.load({"HTTP_API_KEYS": value}, root=tmp_path)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_API_AUTH", "maybe"),
        ("HTTP_API_MAX_RECORDS", "0"),
        ("HTTP_API_ACK_SECONDS", "soon"),
        ("DROP_URL", "ftp://host"),
    ],
)
def test_wrong_http_api_settings_are_named(tmp_path: Path, name: str, value: str) -> None:
    """The error names the setting and an example."""
    with pytest.raises(SettingError, match=name):
        Settings.load({name: value}, root=tmp_path)


def test_http_api_settings_are_read(tmp_path: Path) -> None:
    """Each has its variable; keys are hashes by name; printing shows none."""
    digest = "AB" * 32
    env = {
        "HTTP_API_KEYS": f" shop:{digest} , ",
        "HTTP_API_MAX_RECORDS": "7",
        "HTTP_API_AUTH": "Off",
        "HTTP_API_RATE_RECORDS": "0",
        "DROP_URL": "s3a://bucket/drop/",
    }
    settings = Settings.load(env, root=tmp_path)
    assert settings.http_api.api_keys == {"shop": digest.lower()}
    assert (settings.http_api.max_records, settings.http_api.rate_records) == (7, 0)
    assert settings.http_api.auth is False
    assert settings.drop_url == "s3://bucket/drop"
    assert digest.lower() not in repr(settings)
    assert settings.source["HTTP_API_KEYS"] == "***"
