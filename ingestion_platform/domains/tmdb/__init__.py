"""A media catalogue: movies, TV series, persons."""
