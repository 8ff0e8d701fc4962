"""Maintenance of Iceberg tables: compact files, merge manifests, expire snapshots, delete orphans.

It changes no rows and blocks no reader or writer. `table.maintenance` does all of it for one table.
`warehouse.snapshots` and `warehouse.retention` are what every commit does.
"""
