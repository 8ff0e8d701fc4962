"""Static documents (OpenAPI, Swagger UI), rendered once and sent with an entity tag.

Swagger UI's files come from an installed package, so that no other server is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ingestion_platform.http_api import media

HTML, SCRIPT, STYLE = "text/html", "text/javascript", "text/css"
_ASSETS = {
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", SCRIPT),
    "/docs/swagger-ui.css": ("swagger-ui.css", STYLE),
    "/docs/favicon.png": ("favicon.png", "image/png"),
}
PATHS = frozenset({"/docs", "/docs/start.js", "/openapi.json", *_ASSETS})
"""Paths of all documents."""

# The page may load from the API itself only. Its scripts set no inline styles or code.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Addresses are relative, so that the page works behind a proxy's path as well.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
_SMALL = 1000  # bytes; shorter bodies are not compressed

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Document:
    """A body with its media type; `headers` are added to each answer."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]

    @cached_property
    def tag(self) -> str:
        """The entity tag without its quotes: a hash of the body."""
        return hashlib.sha256(self.body).hexdigest()[:32]

    @cached_property
    def compressed(self) -> bytes:
        """The body in gzip."""
        return gzip.compress(self.body, mtime=0)

    async def answer(self, request: Request) -> Response:
        """Return the document, or 304 if the client has it.

        Raises:
            Problem: the client does not accept its media type.
        """
        media.check_accepts(request.headers.get("accept"), self.media_type)
        codings = request.headers.get("accept-encoding", "")
        zipped = len(self.body) > _SMALL and media.accepts_coding(codings, "gzip")
        tag = f'"{self.tag}-gzip"' if zipped else f'"{self.tag}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        headers |= self.headers
        if _matches(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        if zipped:
            headers["Content-Encoding"] = "gzip"
        body = self.compressed if zipped else self.body
        return Response(body, headers=headers, media_type=self.media_type)


def documents(title: str, openapi: bytes) -> dict[str, Document]:
    """Return the documents by path: the OpenAPI description, and the page that shows it."""
    page = _PAGE.format(title=html.escape(title)).encode()
    return {
        "/openapi.json": Document(openapi, media.JSON, {}),
        "/docs": Document(page, HTML, {"Content-Security-Policy": _PAGE_POLICY}),
        "/docs/start.js": Document(_START.encode(), SCRIPT, {}),
        **{path: _asset(*asset) for path, asset in _ASSETS.items()},
    }


@cache
def _asset(name: str, media_type: str) -> Document:
    """Return a file of Swagger UI, without importing the package that has it."""
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("fastapi_offline, which ships Swagger UI, is not installed")
    return Document((Path(found.origin).parent / "static" / name).read_bytes(), media_type, {})


def _matches(wanted: str, tag: str) -> bool:
    """Return whether If-None-Match names the tag, by weak comparison (RFC 9110, 13.1.2)."""
    return wanted.strip() == "*" or tag in re.findall(r'"[^"]*"', wanted)
