"""How files are read as data, and how outputs appear whole or not at all."""
