"""Bronze: parse and validate lake records by contract, load them, quarantine the rest."""
