"""Training of the weights that preset `nano` ships with; see README.md. Outside the package, like `bench`."""
