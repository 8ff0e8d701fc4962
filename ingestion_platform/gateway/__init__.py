"""The HTTP door: records in by POST, judged by their contract, acknowledged by Kafka, answered.

All of FastAPI lives here. What a contract is, and what happens behind the topic, does not.
"""
