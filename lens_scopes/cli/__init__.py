"""The command line: one module for each command, and one for each group of options that commands share."""

from lens_scopes.cli.app import main

__all__ = ["main"]
