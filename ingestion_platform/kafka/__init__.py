"""Kafka clients, topics as logs, and the embedded broker."""
