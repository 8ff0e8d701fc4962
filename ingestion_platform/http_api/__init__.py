"""The HTTP API: records in by POST, validated by their contract, acknowledged by Kafka, answered.

All of FastAPI lives here. What a contract is, and what happens behind the topic, does not.
"""
