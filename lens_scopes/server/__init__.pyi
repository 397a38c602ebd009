from .app import create_app
from .run import run, run_space

__all__ = ["create_app", "run", "run_space"]
