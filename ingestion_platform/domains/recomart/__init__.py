"""A recommendation shop: users, products, transactions."""
