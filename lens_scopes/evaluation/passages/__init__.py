"""Passages of a data set: reading them, and turning each into a prompt with its target."""
