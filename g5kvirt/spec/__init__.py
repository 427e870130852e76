"""What is asked for: the specification, and how its values are read."""
