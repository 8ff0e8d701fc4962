"""Column lineage of dbt models: which columns of its inputs a column is computed from.

dagster-dbt derives it from the compiled SQL. Columns of the tables come from the Iceberg catalog,
since dbt's own connection ends with dbt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtProject
from dagster_dbt.core.dbt_cli_event import EventHistoryMetadata, _build_column_lineage_metadata
from pyiceberg.catalog import Catalog

LINEAGE = "dagster/column_lineage"
_LOG = logging.getLogger("dagster")
_ANY_TYPE = {"data_type": "VARCHAR"}  # names alone decide the lineage


def column_lineage(
    node: Mapping[str, Any],
    manifest: Mapping[str, Any],
    project: DbtProject,
    translator: DagsterDbtTranslator,
    catalog: Catalog,
    target: Path,
) -> dict[str, Any]:
    """Return the metadata with the column lineage of a model that dbt has built into `target`.

    Following SQL takes up to seconds, so the result is stored beside the manifest and holds for as
    long as the manifest does. Empty when the SQL cannot be followed: no reason for a run to fail.
    """
    stored = project.manifest_path.parent / "lineage" / f"{node['unique_id']}.json"
    if _is_newer(stored, project.manifest_path):
        lineage = dg.deserialize_value(stored.read_text(), dg.TableColumnLineage)
        return {LINEAGE: lineage}
    try:
        found = _follow(node, manifest, project, translator, catalog, target)
    except Exception as error:  # sqlglot has no class for all of its errors
        _LOG.info("no column lineage of %s: %s", node["name"], error)
        return {}
    if LINEAGE in found:
        stored.parent.mkdir(exist_ok=True)
        made = stored.with_suffix(f".{target.name}")
        made.write_text(dg.serialize_value(found[LINEAGE]))
        made.replace(stored)
    return found


def _is_newer(file: Path, than: Path) -> bool:
    return file.exists() and file.stat().st_mtime > than.stat().st_mtime


def _follow(
    node: Mapping[str, Any],
    manifest: Mapping[str, Any],
    project: DbtProject,
    translator: DagsterDbtTranslator,
    catalog: Catalog,
    target: Path,
) -> dict[str, Any]:
    def columns(of: Mapping[str, Any]) -> dict[str, Any]:
        table = catalog.load_table(tuple(translator.get_asset_key(of).path))
        return {field.name: _ANY_TYPE for field in table.schema().fields}

    parents = [
        manifest["nodes"].get(parent) or manifest["sources"][parent]
        for parent in manifest["parent_map"][node["unique_id"]]
    ]
    history = EventHistoryMetadata(
        columns=columns(node),
        parents={parent["relation_name"]: columns(parent) for parent in parents},
    )
    return _build_column_lineage_metadata(
        history, dict(node), manifest, translator, target, project
    )
