"""PyTorch's global state, and that of the caller's thread, changes no number, and is the caller's afterwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from entry_points import ENTRY_POINTS
from tiny_models import llama_like


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
}


@pytest.fixture(scope="module")
def model() -> Any:
    return llama_like(dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(model: Any) -> dict[str, list[torch.Tensor]]:
    return {name: call(model) for name, call in ENTRY_POINTS.items()}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_state_of_pytorch_changes_no_number(name: str, context: str, model: Any, expected: Any) -> None:
    with CONTEXTS[context]():
        values = ENTRY_POINTS[name](model)
    for value, wanted in zip(values, expected[name], strict=True):
        assert value.dtype == wanted.dtype
        assert torch.equal(value.cpu(), wanted)


@pytest.mark.parametrize("name", ENTRY_POINTS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_detection_takes_one_direction_at_a_time(name: str, model: Any, expected: Any) -> None:
    with torch.autograd.set_detect_anomaly(True):
        values = ENTRY_POINTS[name](model)
    for value, wanted in zip(values, expected[name], strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-5)


def test_the_callers_state_is_as_before(model: Any) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        ENTRY_POINTS["fisher"](model)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
        assert torch.empty(1).is_meta
