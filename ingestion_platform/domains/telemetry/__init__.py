"""Telemetry: readings of sensors and logs of services."""
