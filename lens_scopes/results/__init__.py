"""Result types, their files and tables."""
