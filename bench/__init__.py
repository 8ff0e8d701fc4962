"""Benchmarks: what the platform does in a second, beside what its parts could do at best."""
