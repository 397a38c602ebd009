from .app import create_app
from .launch import run, run_space

__all__ = ["create_app", "run", "run_space"]
