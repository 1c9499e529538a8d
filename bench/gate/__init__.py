"""The gate: what a commit costs in parity, latency, memory and counts, beside another. See docs/gate.md."""
