"""The state of PyTorch around a call: inference mode, autocast, default device, and the rounding of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor

from lens_scopes.errors import VALIDATED, ModelError

MatmulDtype: TypeAlias = Annotated["Literal['bfloat16'] | None", VALIDATED]


def check_matmul_dtype(matmul_dtype: Any) -> MatmulDtype:
    """The choice, if it is one.

    Raises:
        ModelError: for anything but None and "bfloat16".
    """
    if matmul_dtype is not None and not (isinstance(matmul_dtype, str) and matmul_dtype == "bfloat16"):
        raise ModelError(
            'matmul_dtype is None (matrix products in the model\'s own dtype) or "bfloat16"; got '
            f"{str(matmul_dtype)[:60]}."
        )
    return matmul_dtype


@contextmanager
def usual_torch(device: torch.device) -> Iterator[None]:
    """A with-block without the caller's inference mode, autocast, default device and hooks on what autograd saves.

    Each of them is this thread's own. The default dtype is that of all threads, so it is not touched: whatever is made
    here without a tensor to go by names its dtype. Nor are the precision of matrix products and other switches of
    rounding: `rounded_products` and `unusual_rounding` name them for the record.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if _saved_tensors_are_hooked():  # a caller's hooks may round what the backward pass reads
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is))
        yield


def _saved_tensors_are_hooked() -> bool:
    top = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)
    return top is not None and top(True) is not None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def rounded_products(device: torch.device, dtype: torch.dtype) -> str | None:
    """What PyTorch was told to round the factors of float32 matrix products to, on that device: "tf32" or "bf16".

    None where it rounds nothing, which is PyTorch's default. The setting is of the whole process: by
    `torch.set_float32_matmul_precision` or `torch.backends`.
    """
    if dtype != torch.float32 or device.type not in ("cpu", "cuda"):
        return None
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:  # PyTorch before 2.9
        lowest = torch.get_float32_matmul_precision() == "medium"
        on_cpu = "bf16" if lowest else None
        return on_cpu if device.type == "cpu" else "tf32" if torch.backends.cuda.matmul.allow_tf32 else None
    return precision if precision in ("tf32", "bf16") else None


def unusual_rounding(device: torch.device) -> dict[str, bool]:
    """The switches of `torch.backends` that change rounding on that device and are not as PyTorch starts, by name.

    Like `rounded_products` they are of the whole process, so a call leaves them as they are.
    """
    unusual: dict[str, bool] = {}
    for name, usual in {"cpu": _CPU_ROUNDING, "cuda": _CUDA_ROUNDING}.get(device.type, {}).items():
        try:
            value = attrgetter(name)(torch.backends)
            value = value() if callable(value) else value
        except (AttributeError, RuntimeError):  # not in this PyTorch, or set by its newer name
            continue
        if bool(value) != usual:
            unusual[name] = bool(value)
    return unusual


# Those of cuDNN act on convolutions alone, which some bridges have.
_CPU_ROUNDING = {"mkldnn.enabled": True}


_CUDA_ROUNDING = {
    "cuda.matmul.allow_fp16_accumulation": False,
    "cuda.matmul.allow_fp16_reduced_precision_reduction": True,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
    "cuda.flash_sdp_enabled": True,
    "cuda.mem_efficient_sdp_enabled": True,
    "cuda.math_sdp_enabled": True,
    "cudnn.enabled": True,
    "cudnn.allow_tf32": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
}
