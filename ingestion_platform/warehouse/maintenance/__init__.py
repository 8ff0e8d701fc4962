"""Maintenance of Iceberg tables: small files made large, manifests and snapshots few, orphans
removed.

No row changes by it, and no writer or reader has to wait for it. `table.maintenance` does all of it
for one table; what a commit does by itself lives in `warehouse.snapshots` and
`warehouse.retention`."""
