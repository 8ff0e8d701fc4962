"""Files as sequences of records: formats, and a spool for their bytes."""
