"""What every room reads and none re-declares: networks, presets, sizes, signatures."""
