"""Delivery: bronze tables and dbt models kept equal in other stores. No orchestration here."""
