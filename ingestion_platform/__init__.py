"""Kafka, files and HTTP in; a raw lake, typed Iceberg tables and dbt models out."""

__version__ = "0.1.0"
