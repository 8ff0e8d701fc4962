"""Create and open tables; `evolve` changes existing ones."""

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
"""Table property with the id of the contract that owns a bronze table."""

PROPERTIES = {
    "format-version": "2",
    # PyIceberg's own retry would append the same range twice.
    "commit.retry.num-retries": "0",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def ensure_bronze(catalog: Catalog, name: str, contract: Contract) -> Table:
    """Return the bronze table of a contract; create it or evolve it to the contract's schema.

    Raises:
        ContractProblems: the table cannot follow the contract without losing data.
        ContractError: the table belongs to another contract.
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
            f"the table {name} belongs to another contract, {owner}: their rows would be mixed",
            action="give one of them another physicalName; if the contract got another id, set the "
            f"table's property {CONTRACT_ID} to {contract.id}",
        )
    return evolve(catalog, table, contract)


def ensure_quarantine(catalog: Catalog, name: str) -> Table:
    """Return a quarantine table; create it if it does not exist.

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
    """Return the table `namespace.name`; create it with the given shape if it does not exist."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    if (table := load_or_none(catalog, name)) is not None:
        return table
    schema, spec = shape()
    with answering():
        ensure_namespace(catalog, name.rpartition(".")[0])
        try:
            given = {**PROPERTIES, **(properties or {})}
            return catalog.create_table(name, schema, partition_spec=spec, properties=given)
        except TableAlreadyExistsError:  # created by another process meanwhile
            return catalog.load_table(name)


def ensure_namespace(catalog: Catalog, namespace: str) -> None:
    """Create a namespace if it does not exist; safe with concurrent writers."""
    from sqlalchemy.exc import IntegrityError

    try:
        catalog.create_namespace_if_not_exists(namespace)
    except IntegrityError:  # created by another thread or process meanwhile
        return


def has_changed(table: Table) -> bool:
    """Return whether the table was changed since it was opened.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    with answering():
        now = table.catalog.load_table(table.name())
    return bool(now.metadata_location != table.metadata_location)


def load_or_none(catalog: Catalog, name: str) -> Table | None:
    """Return the table `namespace.name`; None if it does not exist.

    Raises:
        CatalogUnavailable: the catalog does not answer.
        TableUnreadable: its metadata file is missing or damaged.
    """
    from pyiceberg.exceptions import NoSuchTableError, ValidationError

    with answering():
        try:
            return catalog.load_table(name)
        except NoSuchTableError:
            return None
        except (FileNotFoundError, ValidationError, ValueError, LookupError, TypeError) as error:
            text = str(error).partition("\n")[0][:300]
            raise TableUnreadable(
                f"table {name}: its metadata cannot be read: {type(error).__name__}: {text}",
                action="restore the metadata file, or register an earlier one in the catalog",
            ) from error
