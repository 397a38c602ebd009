"""What is known of one model for as long as it lives: its weights' origin, checks that passed, and computed weights."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_scopes.engine.final_state import WeightCache
from lens_scopes.engine.model.bridge_attention import LayerAttention


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from.

    Attributes:
        name: the name or folder that was loaded.
        revision: names the exact weights, where they have a name.
        processing: whether weights were folded or centred, by the flag's name.
    """

    name: str
    revision: str | None
    processing: Mapping[str, bool]


@dataclass(frozen=True)
class Alterations:
    """What acts on a model beside its weights as they were loaded.

    Attributes:
        sentences: one for each kind, as results say it.
        adapters: the modules that are adapters, by name.
    """

    sentences: list[str]
    adapters: Mapping[str, Any]


@dataclass(frozen=True)
class WeightSample:
    """What shows that a weight was changed: PyTorch's count of writes to it, and some of its numbers.

    Attributes:
        writes: the count; 0 for weights made in inference mode, which have none.
        shape: of the weight.
        values: numbers at places that are spread evenly.
    """

    writes: int
    shape: torch.Size
    values: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> WeightSample:
        """The state of a weight."""
        return cls(_writes(weight), weight.shape, _numbers([weight]))


def changed_weights(samples: Mapping[str, WeightSample], weights: Mapping[str, Tensor]) -> list[str]:
    """The names of sampled weights that are gone, or not what was sampled; a move or a cast is no change."""
    changed = [name for name in samples if name not in weights]
    alike: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, sample in samples.items():
        if (weight := weights.get(name)) is None:
            continue
        if weight.shape != sample.shape or _writes(weight) != sample.writes:
            changed.append(name)
        else:
            alike.setdefault((weight.device, weight.dtype), []).append(name)
    # All numbers at once: hundreds of comparisons take longer, above all where each waits for a GPU.
    for names in alike.values():
        now = _numbers([weights[name] for name in names])
        # The sample follows a weight that was moved or cast.
        before = torch.cat([samples[name].values for name in names]).to(now)
        if not torch.equal(before, now):
            # NaN is unequal to itself.
            differs = (before.nan_to_num() != now.nan_to_num()).split([len(samples[name].values) for name in names])
            changed += [name for name, different in zip(names, differs, strict=True) if bool(different.any())]
    return changed


@torch.no_grad()
def _numbers(weights: Sequence[Tensor]) -> Tensor:
    """Some numbers of each of several weights of one dtype on one device."""
    dtype = weights[0].dtype
    if dtype.is_floating_point and dtype.itemsize == 1:  # float8, which `take` does not know
        numbers = torch.cat([weight.view(torch.uint8).take(_places(weight)) for weight in weights])
        return numbers.view(dtype).float()
    return torch.cat([weight.take(_places(weight)) for weight in weights])


def _places(weight: Tensor) -> Int[Tensor, " sample"]:
    return _evenly(weight.numel(), weight.device)


@cache
def _evenly(size: int, device: torch.device) -> Int[Tensor, " sample"]:
    places = torch.linspace(0, size - 1, min(size, _SAMPLE_SIZE), dtype=torch.float64, device="cpu").long()
    return places.to(device)


def _writes(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


_SAMPLE_SIZE = 32


@dataclass
class ModelCache:
    """What is known of one model, for as long as the model lives.

    Attributes:
        weights: what was computed from W_U, refused once W_U has changed.
        gradients_flow: whether a backward pass was seen to reach the embedding through every linear layer.
        live_hooks: for hooks that were tried, whether the forward pass goes on with what they return.
        logits_agree: whether the logits were seen to be the unembedding of the final state.
        slice_obstacle: why a bridge's blocks cannot run alone; "" where they gave what the whole pass gives, None
            before that was tried.
        prefix_obstacle: why a bridge's copies of a prompt cannot start in its middle; "" where they gave what the whole
            pass gives, None before that was tried.
        attention: what is known of the attention of each of a bridge's layers; None before that was tried.
        live_adapters: the ids of adapters that a bridge was seen to call.
        provenance: where the weights come from, if `load_model` read them.
        known_hooks: the ids of hooks that lens_scopes added, or that the model was loaded with.
        loaded_weights: some numbers of every weight as `load_model` read it.
        altered: what acts on the model beside its weights, for the length of a call that has looked; else None.
        silent: whether hooks that lens_scopes added do nothing, for a pass that only notes what blocks are called with.
        lock: held by the thread that uses the model.
    """

    weights: WeightCache = field(default_factory=WeightCache)
    gradients_flow: bool = False
    live_hooks: dict[str, bool] = field(default_factory=dict)
    logits_agree: bool = False
    slice_obstacle: str | None = None
    prefix_obstacle: str | None = None
    attention: tuple[LayerAttention, ...] | None = None
    live_adapters: set[int] = field(default_factory=set)
    provenance: Provenance | None = None
    known_hooks: set[int] = field(default_factory=set)
    loaded_weights: Mapping[str, WeightSample] = field(default_factory=dict)
    altered: Alterations | None = None
    silent: bool = False
    lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)


def cache_of(model: object) -> ModelCache:
    """The one cache of a model, made when it is first asked for.

    Raises:
        TypeError: for what cannot be referred to weakly, as a namespace.
    """
    return _caches.setdefault(model, ModelCache())


# The one place where something is kept for a model. It keeps caches, not adapters: those hold their model, and would
# keep it alive for ever. Nor is it an attribute of the model: copies and saved files would carry it along, and a
# compiled model, which answers with the attributes of the model inside, would find the other's.
_caches: weakref.WeakKeyDictionary[Any, ModelCache] = weakref.WeakKeyDictionary()
