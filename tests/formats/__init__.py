"""Cases of file formats, as data: run by tests, listed in docs/formats.md."""
