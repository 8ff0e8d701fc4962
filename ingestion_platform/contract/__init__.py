"""A stream is a contract: ODCS files in; Arrow, Iceberg, decoders and SQL out."""
