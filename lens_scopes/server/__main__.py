"""`python -m lens_scopes.server`: the public page of a hosting platform, as its `app.py` would serve it."""

from lens_scopes.server.launch import run_space

run_space()
