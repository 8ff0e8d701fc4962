"""`python -m ingestion_platform` is `ingest`."""

from ingestion_platform.cli import main

if __name__ == "__main__":
    main()
