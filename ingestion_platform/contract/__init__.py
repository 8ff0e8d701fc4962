"""Read ODCS contracts and derive Arrow and Iceberg schemas, decoders and SQL from them."""
