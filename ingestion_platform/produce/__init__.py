"""Producing records: keys, defaults, delivery; simulators of the example domains."""
