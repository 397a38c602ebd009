"""Which of several processes this one is, as `accelerate launch`, `torchrun` or `mpirun` says in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lens_scopes.errors import EvaluationError

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


@dataclass(frozen=True)
class Process:
    """One of `count` processes that share the passages; `local_rank` counts those of one machine.

    The processes never talk to each other, only to a folder they share: one that dies takes no other with it, and one
    that is slow makes no other wait.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def takes(self, index: int) -> bool:
        """Whether the passage is this process's."""
        return index % self.count == self.rank

    def device(self) -> str | None:
        """The accelerator of its own for each process of a machine; None to leave the choice to the model's loader."""
        if self.count == 1:
            return None
        import torch

        if not torch.cuda.is_available():
            return None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def this_process() -> Process:
    """This process's place.

    Raises:
        EvaluationError: when the environment says something impossible.
    """
    process = Process(_number(_RANK, 0), _number(_COUNT, 1), _number(_LOCAL_RANK, 0))
    if not 0 <= process.rank < process.count:
        raise EvaluationError(
            f"the environment says process {process.rank} of {process.count}; set RANK and WORLD_SIZE, or neither."
        )
    return process


def _number(names: tuple[str, ...], default: int) -> int:
    for name in names:
        if value := os.environ.get(name):
            try:
                return int(value)
            except ValueError:
                raise EvaluationError(f"the environment variable {name} is {value!r}, no number; unset it.") from None
    return default
