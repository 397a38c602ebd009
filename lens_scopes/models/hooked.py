"""HookedTransformer, which TransformerLens has up to its version 3: everything that 4 removed is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lens_scopes.engine.model import has_hooked
from lens_scopes.errors import ModelError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def require_hooked() -> None:
    """Raises ModelError where there is no HookedTransformer."""
    if not has_hooked():
        raise ModelError(
            'backend="hooked" needs a HookedTransformer, which transformer-lens 4 removed: use backend="bridge", or '
            'install "transformer-lens<4"'
        )


def new_config(fields: Mapping[str, Any]) -> Any:
    """A HookedTransformerConfig."""
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig.from_dict(dict(fields))


def convert_config(folder: Path) -> dict[str, Any]:
    """What TransformerLens makes of the config.json in a folder.

    Raises:
        NotImplementedError, AttributeError: where it cannot read it.
    """
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    return convert_hf_model_config(str(folder))


def load_pickled(name: str, device: str, dtype: torch.dtype, processing: Mapping[str, bool]) -> Any:
    """A HookedTransformer whose weights are a pickle in TransformerLens' own format."""
    from transformer_lens import HookedTransformer

    options: dict[str, Any] = {"device": device, "dtype": dtype, **processing}
    return HookedTransformer.from_pretrained(name, **options)


def build_hooked(pretrained: Any, cfg: Any, tokenizer: Any, processing: Mapping[str, bool]) -> Any:
    """A HookedTransformer with configuration `cfg` and the weights of `pretrained`, which it shares where it can."""
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

    try:
        # With the model in hand the first argument only has to be a path that exists.
        weights = get_pretrained_state_dict(str(Path(__file__).parent), cfg, pretrained, dtype=cfg.dtype)
        model = HookedTransformer(cfg, tokenizer, move_to_device=False)
        if any(processing.values()):
            model.load_and_process_state_dict(dict(weights), **processing)
        else:
            _adopt(model, weights)
        if cfg.n_devices > 1:
            _spread(model)
        else:
            model.move_model_modules_to_device()
        if not any(processing.values()):
            _tie(model, weights)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"HookedTransformer cannot take the weights of this {type(pretrained).__name__} "
            f'({type(error).__name__}): load it with backend="bridge"'
        ) from error
    return model


def _adopt(model: HookedTransformer, weights: Mapping[str, Tensor]) -> None:
    """Makes `weights` the parameters of `model` without copying them.

    They stay views in the layout of Transformers, in which HookedTransformer's matrix products need no copy at
    every forward pass either. Other weights that are one in Transformers are parted, so that a change to one does not
    reach the other; `_tie` sees to W_E and W_U.
    """
    owners: set[tuple[int, int]] = set()
    tied = _tied_embeddings(weights)
    adopted = {}
    for key, value in model.fill_missing_keys(dict(weights)).items():
        value = value.detach()
        if value.is_floating_point():
            value = value.to(model.cfg.dtype)
        owner = (value.data_ptr(), value.numel())
        parted = value.numel() and owner in owners and not (tied and key in _EMBEDDINGS)
        adopted[key] = value.clone() if parted else value
        owners.add(owner)
    model.load_state_dict(adopted, assign=True, strict=False)


_EMBEDDINGS = ("embed.W_E", "unembed.W_U")


def _tied_embeddings(weights: Mapping[str, Tensor]) -> bool:
    """Whether W_U is W_Eᵀ, in one place. Gemma's W_E is scaled, and so another matrix."""
    W_E, W_U = (weights.get(name) for name in _EMBEDDINGS)
    if W_E is None or W_U is None:
        return False
    return W_E.data_ptr() == W_U.data_ptr() and W_E.shape == W_U.T.shape and W_E.stride() == W_U.T.stride()


def _tie(model: HookedTransformer, weights: Mapping[str, Tensor]) -> None:
    """Makes tied embeddings one matrix in memory, as in Transformers: casts and moves to a device have parted them."""
    W_E, unembed = model.embed.W_E, model.unembed
    if _tied_embeddings(weights) and W_E.device == unembed.W_U.device:
        unembed.W_U.data = W_E.data.T
        model.register_load_state_dict_pre_hook(_untie)


def _untie(model: HookedTransformer, *_: Any) -> None:
    """Parts the two before other weights are copied into them, as processing them later does."""
    if model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr():
        model.unembed.W_U.data = model.unembed.W_U.data.clone()


def _spread(model: HookedTransformer) -> None:
    """Puts every layer where the forward pass takes the residual stream: TransformerLens itself goes by free memory."""
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index

    places = [get_device_for_block_index(layer, model.cfg) for layer in range(model.cfg.n_layers)]
    for block, place in zip(model.blocks, places, strict=True):
        block.to(place)
    for name, place in {"embed": 0, "pos_embed": 0, "ln_final": -1, "unembed": -1}.items():
        if hasattr(model, name):
            getattr(model, name).to(places[place])
