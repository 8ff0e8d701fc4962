"""Produce records to topics: keys, defaults, delivery, labelled files, simulators."""
