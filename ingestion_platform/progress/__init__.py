"""How far a stream has come: positions and lag, a stream's status, and what is behind."""
