"""`python -m lens_scopes.server`: serves the public page of a hosting platform."""

from lens_scopes.server.launch import run_space

run_space()
