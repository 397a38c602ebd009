"""What the tests of bridges share."""

from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def softmax_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bridges and Transformers compute softmax in float32 whatever the weights are."""
    softmax = torch.nn.functional.softmax

    def wide(values: Tensor, dim: int, dtype: Any = None, **_: Any) -> Tensor:
        return softmax(values, dim=dim)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)
