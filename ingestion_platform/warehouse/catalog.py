"""Open the Iceberg catalog that the settings name, and translate its drivers' errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ingestion_platform.errors import CatalogUnavailable, Permanent, StoreUnavailable
from ingestion_platform.settings import CATALOG, Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog


def open_catalog(settings: Settings) -> Catalog:
    """Return the catalog `lakehouse`; an embedded one is created on first use.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    from pyiceberg.catalog import load_catalog

    from ingestion_platform.warehouse.pyiceberg_private import apply_fixes

    apply_fixes()
    # Reconnect after the server was restarted, instead of failing once.
    properties = {"pool_pre_ping": "true"} | dict(settings.catalog)
    uri = settings.catalog.get("uri", "")
    if uri.startswith("sqlite:///"):
        Path(urlsplit(uri).path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with answering():
            return load_catalog(CATALOG, **properties)
    except CatalogUnavailable:
        # When several processes create a new catalog's tables at once, all but one fail.
        with answering():
            return load_catalog(CATALOG, **properties)


# Neither libpq nor Arrow gives a code for refused credentials: their text is all there is.
_REJECTED_LOGIN = re.compile(
    r'password authentication failed|no pg_hba.conf entry|(role|database) "[^"]*" does not exist'
)
_REJECTED_KEYS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[13]"
)


@contextmanager
def answering() -> Iterator[None]:
    """Translate the errors of the catalog's and the object store's drivers.

    Raises:
        CatalogUnavailable, StoreUnavailable: it does not answer.
        Permanent: it refuses the credentials.
    """
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, RequestException) as error:
        if _REJECTED_LOGIN.search(str(error)):
            raise Permanent(
                f"the Iceberg catalog {CATALOG!r} refuses the login",
                action="correct user, password and database in PYICEBERG_CATALOG__LAKEHOUSE__URI",
            ) from None  # the driver's text may contain the credentials
        raise CatalogUnavailable(
            f"the Iceberg catalog {CATALOG!r} does not answer: {type(error).__name__}",
            action="check PYICEBERG_CATALOG__LAKEHOUSE__URI and that its server is up",
        ) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        text = str(error).partition("\n")[0]
        if _REJECTED_KEYS.search(text):
            raise Permanent(
                f"the store of the Iceberg tables refuses access: {text[-300:]}",
                action="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ) from error
        raise StoreUnavailable(
            f"the store of the Iceberg tables does not answer: {text[-300:]}",
            action="check the catalog's warehouse, AWS_ENDPOINT_URL, and that its server is up",
        ) from error
