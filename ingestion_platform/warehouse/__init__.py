"""Iceberg: the catalog, atomic commits with positions, delete-aware reading, dbt's plugin."""
