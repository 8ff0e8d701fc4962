"""The lake: raw records, verbatim, as chained Parquet files in an object store."""
