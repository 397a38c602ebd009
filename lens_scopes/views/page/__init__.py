"""HTML pages of results: sections as plain data, drawn by the scripts in `scripts/`."""
