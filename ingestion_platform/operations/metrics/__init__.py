"""Metrics for Prometheus, read from tables, positions and logs; docs/metrics.md tells of each."""
