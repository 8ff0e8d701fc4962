"""Making sure that a stream's tables exist; what changes in them later is in `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.schemas import (
    iceberg_schema,
    partition_spec,
    quarantine_partition_spec,
    quarantine_schema,
)
from ingestion_platform.errors import ContractError, TableUnreadable
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.evolve import evolve

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table

CONTRACT_ID = "ingestion.contract-id"
"""The property of a bronze table that says whose it is: another contract's rows never come in."""

PROPERTIES = {
    "format-version": "2",
    # A conflict must come back to us: PyIceberg's own retry would append the same range twice.
    "commit.retry.num-retries": "0",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def ensure_bronze(catalog: Catalog, name: str, contract: Contract) -> Table:
    """The bronze table of a contract, created if need be, and made to follow it (see `evolve`).

    Raises:
        ContractProblems: a ContractError; the table cannot follow without losing data.
        ContractError: the table was made for another contract.
        CatalogUnavailable: the catalog does not answer.
    """
    table = ensure_table(
        catalog,
        name,
        lambda: (iceberg_schema(contract), partition_spec(contract)),
        {CONTRACT_ID: contract.id},
    )
    owner = table.properties.get(CONTRACT_ID, contract.id)
    if owner != contract.id:
        raise ContractError(
            contract.file,
            "schema[0]",
            f"the table {name} was made for another contract, {owner}: their rows would be mixed",
            action="give one of them another physicalName; if the contract got another id, set the "
            f"table's property {CONTRACT_ID} to {contract.id}",
        )
    return evolve(catalog, table, contract)


def ensure_quarantine(catalog: Catalog, name: str) -> Table:
    """A quarantine table, created if need be.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    return ensure_table(catalog, name, lambda: (quarantine_schema(), quarantine_partition_spec()))


def ensure_table(
    catalog: Catalog,
    name: str,
    shape: Callable[[], tuple[Schema, PartitionSpec]],
    properties: Mapping[str, str] | None = None,
) -> Table:
    """The table of that name (namespace.name); when there is none, one of the shape given."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    if (table := load_or_none(catalog, name)) is not None:
        return table
    schema, spec = shape()
    with answering():
        ensure_namespace(catalog, name.rpartition(".")[0])
        try:
            given = {**PROPERTIES, **(properties or {})}
            return catalog.create_table(name, schema, partition_spec=spec, properties=given)
        except TableAlreadyExistsError:  # another process was quicker
            return catalog.load_table(name)


def ensure_namespace(catalog: Catalog, namespace: str) -> None:
    """Make sure that a namespace exists, whoever else makes it at the same time."""
    from sqlalchemy.exc import IntegrityError

    try:
        catalog.create_namespace_if_not_exists(namespace)
    except IntegrityError:  # another thread or process was quicker
        return


def has_changed(table: Table) -> bool:
    """Whether somebody committed to a table since it was opened.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    with answering():
        now = table.catalog.load_table(table.name())
    return bool(now.metadata_location != table.metadata_location)


def load_or_none(catalog: Catalog, name: str) -> Table | None:
    """The table of that name (namespace.name), None when there is none.

    Raises:
        CatalogUnavailable: the catalog does not answer.
        TableUnreadable: its metadata file is gone or damaged.
    """
    from pyiceberg.exceptions import NoSuchTableError, ValidationError

    with answering():
        try:
            return catalog.load_table(name)
        except NoSuchTableError:
            return None
        except (FileNotFoundError, ValidationError, ValueError, LookupError, TypeError) as error:
            said = str(error).partition("\n")[0][:300]
            raise TableUnreadable(
                f"table {name}: its metadata cannot be read: {type(error).__name__}: {said}",
                action="restore the metadata file, or register an earlier one in the catalog",
            ) from error
