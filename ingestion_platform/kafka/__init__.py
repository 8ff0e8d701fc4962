"""Kafka: clients, topics as logs, the embedded broker."""
