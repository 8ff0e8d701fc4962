"""The declared domains, one folder each. No module imports them by name: see `plugins`."""
