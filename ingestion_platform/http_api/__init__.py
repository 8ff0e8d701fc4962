"""The HTTP API: takes records by POST, validates them by their contract, sends them to Kafka.

The only package that uses FastAPI.
"""
