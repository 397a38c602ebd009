"""Lenses: what the residual stream at a layer and token reads as, in tokens of the vocabulary.

    logit lens:     softmax(W_Uᵀ norm(h) + b_U)
    Jacobian lens:  softmax(W_Uᵀ norm(J_l h) + b_U), with a J_l fitted on a corpus for each layer l

with the model's own final norm, unembedding and soft-cap. A lens says what an activation holds, a score how much it
matters; the reading of a layer is not what the model predicts there, least of all in the first layers.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.final_state import Unembedding, compute_dtype, log_softmax
from lens_scopes.engine.model import Batch, Hook, ScopedModel
from lens_scopes.errors import VALIDATED, FileError, ModelError, ReadoutError, whole_number

if TYPE_CHECKING:
    from transformer_lens.tools.analysis import JacobianLens

LensLike: TypeAlias = Annotated["Lens | str | bool | os.PathLike[str] | JacobianLens | None", VALIDATED]

_NUMBERS_AT_ONCE = 2**24  # logits: 64 MB of float32
_TEXT = re.compile(r"logit(?:@([0-9]{1,9}))?(?:@([0-9]{1,9}))?")
_LAYER = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)")
_MAX_TOKENS = 100

Transport = Callable[[Tensor, str], "Tensor | None"]
"""Takes activations and the name of their site to what the final norm reads; None where the lens has no map."""


@dataclass(frozen=True)
class Lens(ABC):
    """What reads the cells of the layers × tokens map.

    Attributes:
        top: the tokens kept of each cell, the most probable ones.
        cells: the most cells that are read: where there are more, those with the largest scores.
    """

    top: int = 5
    cells: int = 2048

    name: ClassVar[str]
    equation: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "top", whole_number(self.top, "top of a lens", ReadoutError, least=1, most=_MAX_TOKENS)
        )
        object.__setattr__(self, "cells", whole_number(self.cells, "cells of a lens", ReadoutError, least=1))

    @property
    @abstractmethod
    def text(self) -> str:
        """The lens as text, which `as_lens` reads."""

    @abstractmethod
    def prepare(self, model: ScopedModel, names: Sequence[str]) -> Transport:
        """What the lens does to activations before the final norm, checked against the model and the sites read.

        Raises:
            ReadoutError: for a lens that was fitted for another model, or is not fitted for one of the sites.
        """


@dataclass(frozen=True)
class LogitLens(Lens):
    """The residual stream through the model's own final norm and unembedding: softmax(W_Uᵀ norm(h) + b_U).

    Args:
        top: the tokens kept of each cell.
        cells: the most cells that are read: where there are more, those with the largest scores.

    Example:
        >>> prompt = "The capital of France is"
        >>> att = ls.attribute(model, prompt, ls.Semantic(), layers="resid_post", lens=ls.LogitLens(3))
        >>> [item.token for item in att.lens.at(-1, -1)] == [item.token for item in att.prediction.top[:3]]
        True
    """

    name = "logit"
    equation = "softmax(W_Uᵀ norm(h) + b_U)"

    @property
    def text(self) -> str:
        sizes = (self.top, self.cells)
        if sizes == (LogitLens.top, LogitLens.cells):
            return self.name
        return f"{self.name}@{self.top}" + ("" if self.cells == LogitLens.cells else f"@{self.cells}")

    def prepare(self, model: ScopedModel, names: Sequence[str]) -> Transport:
        return lambda residual, name: residual


@dataclass(frozen=True)
class FittedLens(Lens):
    """TransformerLens' JacobianLens: the residual stream taken to the last layer by a matrix fitted for each layer.

    J_l maps the output of block l to that of the last block. It is fitted on raw activations, so a model whose writing
    weights were centred is refused. Embeddings, before any block, have no matrix, and are not read.

    Args:
        lens: the fitted `transformer_lens.tools.analysis.JacobianLens`, or the path of its file.
        top, cells: as for `LogitLens`.

    Example:
        >>> import torch
        >>> from transformer_lens.tools.analysis import JacobianLens
        >>> width = model.cfg.d_model
        >>> fitted = JacobianLens({0: torch.eye(width)}, n_prompts=1, d_model=width)
        >>> att = ls.attribute(model, "The capital", ls.Semantic(), layers="resid_post", lens=fitted)
        >>> att.lens.lens, len(att.lens.at(0, 1))
        ('jacobian', 5)
    """

    lens: Any = None

    name = "jacobian"
    equation = "softmax(W_Uᵀ norm(J_l h) + b_U)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.lens, os.PathLike):
            object.__setattr__(self, "lens", os.fspath(self.lens))
        if not isinstance(self.lens, str) and not _is_fitted(self.lens):
            raise ReadoutError(
                f"a fitted lens is a JacobianLens or the path of its file; got {type(self.lens).__name__}."
            )

    @property
    def text(self) -> str:
        if isinstance(self.lens, str):
            return self.lens
        raise ReadoutError("a fitted lens that is an object has no text; save it, and give the path of its file.")

    def prepare(self, model: ScopedModel, names: Sequence[str]) -> Transport:
        lens, n_layers = self._load(), model.n_layers
        width, layers = lens.d_model, list(lens.source_layers)
        target = int(getattr(lens, "metadata", {}).get("target_layer", n_layers - 1))
        if width != model.cfg.d_model or max(layers) >= n_layers - 1 or target != n_layers - 1:
            raise ReadoutError(
                f"the lens was fitted for d_model={width} and layers up to {max(max(layers), target)}, and this model "
                f"has d_model={model.cfg.d_model} and {n_layers} layers; give the lens of this model."
            )
        provenance = model.cache.provenance
        if provenance is not None and provenance.processing.get("center_writing_weights"):
            raise ReadoutError(
                "a fitted lens reads raw activations, and this model's writing weights were centred; load the model "
                "without processing."
            )
        blocks = {name: _blocks_before(name) for name in names}

        def transport(residual: Tensor, name: str) -> Tensor | None:
            # The fitted map of block l takes its output, which is the input of block l + 1.
            last = blocks[name] - 1
            if last == n_layers - 1:
                return residual
            return lens.transport(residual, last).to(residual) if last in layers else None

        return transport

    def _load(self) -> Any:
        if not isinstance(self.lens, str):
            return self.lens
        import pickle

        from transformer_lens.tools.analysis import JacobianLens

        try:
            return JacobianLens.load(self.lens)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            reason = " ".join(str(error).split())[:120]
            raise FileError(
                f"{self.lens} is no fitted JacobianLens ({reason}); give the file its save wrote."
            ) from None


def as_lens(lens: LensLike) -> Lens | None:
    """A lens of what users may pass: a Lens, True or "logit" ("logit@10" keeps ten tokens, "logit@10@500" of at most
    500 cells), a fitted JacobianLens, the path of its file, or None and False for none.

    Raises:
        ReadoutError: for anything else.
    """
    if lens is None or lens is False or isinstance(lens, Lens):
        return lens or None
    if lens is True:
        return LogitLens()
    if isinstance(lens, (str, os.PathLike)):
        text = os.fspath(lens)
        match = _TEXT.fullmatch(text)
        if match:
            return LogitLens(*(int(size) for size in match.groups() if size))
        if text.endswith(".pt"):
            return FittedLens(lens=text)
    elif _is_fitted(lens):
        return FittedLens(lens=lens)
    raise ReadoutError(
        f'unknown lens {lens!r}; give True or "logit" for the logit lens, a fitted JacobianLens, or its file (.pt).'
    )


def _is_fitted(lens: Any) -> bool:
    """Whether a lens is a fitted one, by what it has: naming its class would import transformer_lens."""
    return callable(getattr(lens, "transport", None)) and hasattr(lens, "source_layers") and hasattr(lens, "d_model")


def read_cells(
    model: ScopedModel,
    unembedding: Unembedding,
    lens: Lens,
    sequences: Sequence[Sequence[int]],
    names: Sequence[str],
    mask: Bool[Tensor, "batch layer pos"],
) -> tuple[Int[Tensor, "batch layer pos top"], Float[Tensor, "batch layer pos top"]]:
    """The most probable tokens of each chosen cell with their probabilities, from one forward pass.

    Args:
        names: the residual stream at each layer.
        chosen: the cells to read.

    Returns:
        Ids and probabilities; −1 and NaN for cells that are not read, or for which the lens has no map.

    Raises:
        ModelError: where the final norm of the last layer's residual stream is not what the unembedding reads.
    """
    transport = lens.prepare(model, names)
    top = min(lens.top, unembedding.d_vocab)
    residuals, final = _residuals(model, sequences, names, mask)
    _check_final(model, *final)
    dtype = compute_dtype(unembedding.W_U.dtype)
    ids = torch.full((*mask.shape, top), -1)
    probabilities = torch.full((*mask.shape, top), torch.nan, dtype=dtype)
    at_once = max(1, _NUMBERS_AT_ONCE // unembedding.d_vocab)
    for layer, name in enumerate(names):
        final_residual = transport(residuals[name], name)
        if final_residual is None:
            continue
        cells = mask[:, layer].nonzero()
        # A few cells at a time: the logits of all of them would be the largest tensor of the whole work.
        for part, places in zip(final_residual.split(at_once), cells.split(at_once), strict=True):
            states = model.apply_final_norm(part[None])[0]
            leading = log_softmax(unembedding.logits(states)).topk(top)
            rows, positions = places.T
            ids[rows, layer, positions] = leading.indices.cpu()
            probabilities[rows, layer, positions] = leading.values.exp().to(probabilities)
    return ids, probabilities


def _residuals(
    model: ScopedModel,
    sequences: Sequence[Sequence[int]],
    names: Sequence[str],
    mask: Bool[Tensor, "batch layer pos"],
) -> tuple[dict[str, Float[Tensor, "cell d_model"]], tuple[Tensor, Tensor]]:
    """The activations of the chosen cells, and the last layer's residual stream with the final state it gives."""
    activations: dict[str, Tensor] = {}
    last: list[Tensor] = []
    batch = Batch.of(model, sequences)

    def keep(layer: int, name: str) -> Hook:
        rows, positions = mask[:, layer].nonzero().T

        def hook(activation: Tensor) -> None:
            activations[name] = activation[rows.to(activation.device), positions.to(activation.device)].detach()

        return hook

    def keep_last(activation: Tensor) -> None:
        rows, positions = batch.read.to(activation.device)
        last.append(activation[rows, positions].detach())

    hooks: list[tuple[str, Hook]] = [(name, keep(layer, name)) for layer, name in enumerate(names)]
    hooks.append((f"blocks.{model.n_layers - 1}.hook_resid_post", keep_last))
    with torch.inference_mode(False), torch.no_grad(), model.hooked(hooks):
        states = model.final_states(batch)
    return activations, (last[0], states)


def _check_final(model: ScopedModel, residual: Float[Tensor, "batch d_model"], states: Tensor) -> None:
    """A model may do more between its last block and its unembedding than one norm: a lens would read another model."""
    with torch.no_grad():
        expected = model.apply_final_norm(residual[None])[0]
    gap, scale = float((expected - states).abs().max()), float(states.abs().max())
    tolerance = 1e-3 if compute_dtype(states.dtype) == states.dtype else 0.05
    if not gap <= tolerance * max(1.0, scale):
        raise ModelError(
            f"the final norm of the last layer differs from what the unembedding reads by {gap:.3g} (of {scale:.3g}), "
            "so a lens would not read this model's layers; leave lens out."
        )


def _blocks_before(name: str) -> int:
    """How many whole blocks a residual stream has passed.

    Raises:
        ReadoutError: in the middle of a block, for which no lens is fitted.
    """
    match = _LAYER.fullmatch(name)
    if match is None or match[2] == "mid":
        raise ReadoutError(
            f"a fitted lens reads the residual stream between blocks, and {name} is inside one; ask for layers=True or "
            'layers="resid_post".'
        )
    return int(match[1]) + (match[2] == "post")
