"""How far behind a stream is: its status, and the slices that have to be landed or loaded.

`positions.waiting` computes every lag; this package reads the positions and applies it.
"""
