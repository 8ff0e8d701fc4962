"""Benchmarks: what the platform does in a second, beside what its parts could do at best."""

from ingestion_platform.settings import keep_freed_memory

keep_freed_memory()  # as every entry point does
