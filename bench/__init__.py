"""Benchmarks and the demo, run as `python -m bench.<name>` from the checkout."""
