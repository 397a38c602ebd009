"""PyTorch's global state, and that of the caller's thread, changes no number, and is the caller's afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contexts import CONTEXTS, switched
from entry_points import ENTRY_POINTS
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.engine.model import unusual_rounding
from lens_scopes.errors import EvaluationError


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


@pytest.mark.parametrize(("precision", "rounded"), [("highest", None), ("medium", "bf16")])
def test_rounded_products_are_named_by_results_and_evaluations(
    precision: str, rounded: str | None, model: Any, tmp_path: Path
) -> None:
    """The setting is of the whole process, so it is not changed for a call: the record says it."""
    with switched(torch.set_float32_matmul_precision, precision, "highest"):
        result = ls.attribute(model, [0, 2, 3], ls.Fisher())
        assert torch.get_float32_matmul_precision() == precision
        assert ls.model_record(model.double()).products is None
        model.float()
        ls.evaluate(model, [[0, 2, 3, 4]], methods=["fisher"], metrics=["first-token"], out=tmp_path / "run")
    assert result.model["products"] == rounded
    if rounded is not None:
        with pytest.raises(EvaluationError, match='its model · products is "bf16", this one\'s is missing'):
            ls.evaluate(model, [[0, 2, 3, 4]], methods=["fisher"], metrics=["first-token"], out=tmp_path / "run")


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_other_switches_of_rounding_are_named_by_results_and_evaluations(model: Any, tmp_path: Path) -> None:
    def evaluate() -> None:
        ls.evaluate(model, [[0, 2, 3, 4]], methods=["fisher"], metrics=["first-token"], out=tmp_path / "run")

    assert ls.attribute(model, [0, 2, 3], ls.Fisher()).model["rounding"] is None
    evaluate()
    with torch.backends.mkldnn.flags(enabled=False):
        result = ls.attribute(model, [0, 2, 3], ls.Fisher())
        assert not torch.backends.mkldnn.enabled, "it is the caller's"
        with pytest.raises(EvaluationError, match="rounding · mkldnn.enabled is missing, this one's is false"):
            evaluate()
    assert result.model["rounding"] == {"mkldnn.enabled": False}
    assert ls.Attribution.from_dict(result.to_dict()).model == result.model


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "deterministic"),
    ],
)
def test_switches_of_a_gpu_are_named_for_a_model_on_one(owner: Any, name: str) -> None:
    usual = getattr(owner, name)
    setattr(owner, name, not usual)
    try:
        (unusual,) = unusual_rounding(torch.device("cuda")).items()
        assert unusual[0].endswith(name) and unusual[1] is not usual
        assert unusual_rounding(torch.device("cpu")) == {}
    finally:
        setattr(owner, name, usual)
    assert unusual_rounding(torch.device("cuda")) == {}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert unusual_rounding(torch.device("cuda")) == {
            "cuda.flash_sdp_enabled": False,
            "cuda.mem_efficient_sdp_enabled": False,
        }
