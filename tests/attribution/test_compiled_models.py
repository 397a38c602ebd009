"""Compiled code does not call hooks: a compiled model is explained by the model inside, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from entry_points import ENTRY_POINTS, PROMPT
from tiny_models import llama_like
from torch import nn

import lens_scopes as ls
from lens_scopes.errors import ModelError


def compiled(part: Any) -> Any:
    return torch.compile(part, backend="eager")


@pytest.fixture(scope="module")
def model() -> Any:
    return llama_like()


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_torch_compile_of_a_model_is_explained_by_the_model_inside(name: str, model: Any) -> None:
    for value, expected in zip(ENTRY_POINTS[name](compiled(model)), ENTRY_POINTS[name](model), strict=True):
        assert torch.equal(value, expected)


def whole(model: Any) -> None:
    model.compile(backend="eager")


def forward(model: Any) -> None:
    model.forward = compiled(model.forward)


def block(model: Any) -> None:
    model.blocks[1].compile(backend="eager")


def replaced_block(model: Any) -> None:
    model.blocks[1] = compiled(model.blocks[1])


def mlp_forward(model: Any) -> None:
    model.blocks[0].mlp.forward = compiled(model.blocks[0].mlp.forward)


@pytest.mark.parametrize("compile_part", [whole, forward, block, replaced_block, mlp_forward])
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_what_is_compiled_inside_is_refused(name: str, compile_part: Callable[[Any], None]) -> None:
    model = llama_like()
    compile_part(model)
    with pytest.raises(ModelError, match="compiled"):
        ENTRY_POINTS[name](model)


def test_a_model_whose_code_is_not_what_its_hooks_belong_to_is_refused() -> None:
    stranger = llama_like()
    stranger.blocks[2] = llama_like().blocks[2]  # hook_dict still has the hooks of the block before
    with pytest.raises(ModelError, match=r"without calling its hook 'blocks\.2\.hook_resid_mid'"):
        ls.attribute(stranger, PROMPT, ls.Fisher())


def test_a_weight_on_no_device_is_refused() -> None:
    model = llama_like()
    model.blocks[1].mlp.W_in = nn.Parameter(model.blocks[1].mlp.W_in.to("meta"), requires_grad=False)
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.W_in is on no device"):
        ls.attribute(model, PROMPT, ls.Fisher())
