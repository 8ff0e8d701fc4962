"""Delivery of bronze tables and dbt models to other stores, each kept equal to its source.

`deliver` is the entry point. `registry` lists the sinks, one package each; `base` has what they
share, `evolution` how they follow a changed source.
"""
