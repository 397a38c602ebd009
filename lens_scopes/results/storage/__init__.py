"""How results are written to files whole, and read again."""
