"""Read files as sequences of records: formats, and a spool for file copies."""
