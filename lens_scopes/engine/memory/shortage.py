"""Where memory runs out all the same: how it is noticed, and the work done in halves."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lens_scopes.errors import LensScopesError, OutOfMemoryError

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a processor or a device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def try_or_oom(work: Callable[[], None]) -> str | None:
    """Runs work that memory may be too small for; None, or the first line of what said so, once memory is free again.

    The error itself would keep alive what filled the memory: it is not kept.
    """
    try:
        work()
        return None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = _first_line(error)
    # Outside the except block, where the traceback no longer holds the tensors of the failed call.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return message


@contextmanager
def name_shortage(what: str) -> Iterator[None]:
    """Says of work that cannot be cut what it was that memory ran out for.

    Raises:
        OutOfMemoryError: instead of whatever the libraries raise.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LensScopesError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory ran out for {what} ({_first_line(error)}); give a shorter prompt.") from error


def run_in_chunks(count: int, at_once: Callable[[int], int], run: Callable[[range], None]) -> None:
    """Runs items 0 … count − 1 in order; where memory runs out the chunk is halved, and what is done stays done.

    Args:
        at_once: how many to run together from a given item on.
        run: runs some of the items.

    Raises:
        OutOfMemoryError: when memory runs out for a single item.
    """
    done, most = 0, count
    while done < count:
        size = min(at_once(done), most, count - done)
        chunk = range(done, done + size)
        if size == 1:
            with name_shortage("the smallest chunk of the work"):
                run(chunk)
        elif try_or_oom(lambda chunk=chunk: run(chunk)) is not None:
            # A chunk this long has been too much once, so no later one is longer.
            most = size // 2
            continue
        done += size


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
