"""Where weights come from, and how they are checked and loaded."""
