"""Opening the Iceberg catalog that the settings name. Tables and commits live beside this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ingestion_platform.errors import CatalogUnavailable
from ingestion_platform.settings import CATALOG, Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog


def open_catalog(settings: Settings) -> Catalog:
    """The catalog `lakehouse`; an embedded one is created on first use.

    Raises:
        CatalogUnavailable: it does not answer.
    """
    from pyiceberg.catalog import load_catalog
    from sqlalchemy.exc import SQLAlchemyError

    uri = settings.catalog.get("uri", "")
    if uri.startswith("sqlite:///"):
        Path(urlsplit(uri).path).parent.mkdir(parents=True, exist_ok=True)
    # A conflict must come back to us: PyIceberg's own retry would append the same range twice.
    properties = {**settings.catalog, "commit.retry.num-retries": "0"}
    try:
        return load_catalog(CATALOG, **properties)
    except (SQLAlchemyError, OSError) as error:
        raise CatalogUnavailable(
            f"the Iceberg catalog {CATALOG!r} does not answer: {type(error).__name__}",
            action="check PYICEBERG_CATALOG__LAKEHOUSE__URI and that its server is up",
        ) from error
