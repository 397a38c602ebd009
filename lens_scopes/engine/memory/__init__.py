"""What a pass may take, what it takes, and what is done where memory is short."""

from lens_scopes.engine.memory.plan import Budget, Footprint, MemoryPlan
from lens_scopes.engine.memory.shortage import is_out_of_memory, name_shortage, run_in_chunks, try_or_oom
from lens_scopes.engine.memory.system import PeakGauge, free_at_once, return_free_pages
from lens_scopes.engine.memory.units import in_units, parse_memory

__all__ = [
    "Budget",
    "Footprint",
    "MemoryPlan",
    "PeakGauge",
    "free_at_once",
    "in_units",
    "is_out_of_memory",
    "name_shortage",
    "parse_memory",
    "return_free_pages",
    "run_in_chunks",
    "try_or_oom",
]
