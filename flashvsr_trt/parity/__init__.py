"""Comparing backends with the torch stages: by graph, by tensor, end to end. May import every room."""
