"""PyTorch's global state, and that of the caller's thread, as callers set it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def switched(switch: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    switch(value)
    try:
        yield
    finally:
        switch(before)


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


def widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def other_generators() -> Iterator[None]:
    state = torch.random.get_rng_state()
    torch.manual_seed(12345)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


# What changes no bit of any number.
CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "global seed": other_generators,
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "denormals flushed": lambda: switched(torch.set_flush_denormal, True, False),
    "autograd in one thread": lambda: torch.autograd.set_multithreading_enabled(False),
    "saved tensors rounded": lambda: torch.autograd.graph.saved_tensors_hooks(rounded, widened),
    "saved tensors on the processor": torch.autograd.graph.save_on_cpu,
    "attention by its mathematics": lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
}
