"""The sections of each kind of page, as plain data."""
