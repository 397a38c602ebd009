"""Loads models by name or folder, and records their provenance."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lens_scopes.engine.model import (
    Model,
    ModelLike,
    Provenance,
    ScopedModel,
    has_hooked,
    rounded_products,
    unusual_rounding,
    usual_torch,
)
from lens_scopes.engine.model.alterations import alterations, remember
from lens_scopes.engine.model.checks import require_gradients
from lens_scopes.errors import ModelError, whole_number
from lens_scopes.models import backends
from lens_scopes.models import gemma as embedded
from lens_scopes.models.hooked import build_hooked, load_pickled, require_hooked
from lens_scopes.models.hooked_config import hooked_config
from lens_scopes.models.names import Source, find_source, transformer_lens_names
from lens_scopes.models.pretrained import Reader, first_line, one_sentence
from lens_scopes.models.quiet import quiet_libraries

PROCESSING_FLAGS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class ModelRecord:
    """What was explained: the model's name, where it came from, how it was loaded, and its dimensions.

    `processing` maps each of `PROCESSING_FLAGS` to whether the weights were folded or centred that way; None means
    unknown (the model was not loaded by `load_model`).
    `revision` names the exact weights where they have a name: a hub commit, or the checksum of the embedded file.
    `products` is "tf32" or "bf16" where PyTorch was told to round the factors of float32 matrix products to that.
    `rounding` has the other switches of `torch.backends` that change rounding on the model's device and are not as
    PyTorch starts, such as {"cudnn.benchmark": True}; None where all are.
    `altered` names what acts on the model beside its weights as they were loaded (the caller's hooks, adapters, changed
    weights); None for nothing.
    """

    name: str
    revision: str | None
    backend: str
    dtype: str
    device: str
    processing: dict[str, bool | None]
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    n_heads: int
    products: str | None = None
    rounding: dict[str, bool] | None = None
    altered: list[str] | None = None


@dataclass(frozen=True)
class AvailableModel:
    """A name that `load_model` takes, its aliases, and whether its weights are on this computer already."""

    name: str
    aliases: tuple[str, ...]
    cached: bool


@dataclass(frozen=True)
class _Place:
    """Where a model goes: one device, the first of several, or where Transformers' device map says."""

    device: str
    n_devices: int
    device_map: str | Mapping[str, Any] | None


def load_model(
    name: str | Path = embedded.EMBEDDED_NAME,
    *,
    backend: Literal["hooked", "bridge"] | None = None,
    device: str | None = None,
    n_devices: int = 1,
    device_map: str | Mapping[str, Any] | None = None,
    dtype: str | torch.dtype = "float32",
    processing: bool | Mapping[str, bool] = False,
    architecture: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Loads a language model with hooks and frozen parameters, which computes the logits that Transformers computes.

    Every load compares the logits of eight random tokens with those of the Transformers model. Files in the local
    Hugging Face cache are used without asking the hub.

    Args:
        name: in this order: the embedded "gemma-3-270m" (no network needed); a TransformerLens model name or alias; a
            folder with `config.json` and weights (a `Path`, or a string that is no model's name); any other
            "owner/name" on the hub.
        backend: "hooked" for a `HookedTransformer`; "bridge" for a `TransformerBridge`, which knows more architectures.
            By default "hooked" with transformer-lens 3, and "bridge" with 4, which has no HookedTransformer.
        device: "cpu", "cuda", "cuda:1", "mps", …; by default "cuda" where there is one, else "cpu".
        n_devices: number of GPUs that share the layers of a HookedTransformer too large for one.
        device_map: Transformers' device map, such as "auto", for a bridge too large for one GPU.
        dtype: "float32", "bfloat16", "float16" or "float64".
        processing: False for the weights as Transformers has them; True for all processing that HookedTransformer does
            by default and the architecture allows; or a mapping from `PROCESSING_FLAGS` to bool.
        architecture: the Transformers class ("GPT2LMHeadModel") or model type ("gpt2") of a folder whose `config.json`
            leaves it out or states another.
        trust_remote_code: whether code from the model's repository, and weights stored as pickles, may run.

    Returns:
        A HookedTransformer or a TransformerBridge in eval mode, with its weights as Transformers has them unless
        `processing` says otherwise. Where embeddings are tied and unprocessed, W_E and W_U share their memory: a change
        in place to one changes both.

    Raises:
        ModelError: for logits that differ by more than rounding; an unknown name, with similar ones; a model that is
            not on this computer while the hub cannot be reached; and options that do not fit each other.

    Example:
        >>> gpt2 = ls.load_model("gpt2", dtype="bfloat16")  # doctest: +SKIP
        >>> ls.load_model("gemma-3-270n")
        Traceback (most recent call last):
        lens_scopes.errors.ModelError: ... did you mean 'gemma-3-270m'...
    """
    # What is asked for, checked before gigabytes are read.
    backend = _read_backend(backend)
    torch_dtype = _read_dtype(dtype)
    n_devices = whole_number(n_devices, "n_devices", ModelError, least=-(2**31))  # a sentence of its own below 1
    place = _read_place(backend, device, n_devices, device_map, torch_dtype)
    wanted = _read_processing(processing)
    source = find_source(name)
    # Building a bridge draws random numbers; the caller's generator stays where it is.
    generator = torch.random.fork_rng(devices=[])
    quiet = quiet_libraries(download_bars=sys.stderr.isatty())
    with generator, quiet, one_sentence(source), usual_torch(torch.device(place.device)):
        if source.is_pickled:
            model, provenance = _load_pickled(source, backend, place.device, torch_dtype, wanted, trust_remote_code)
        else:
            reader = Reader(source, architecture, trust_remote_code)
            strict = isinstance(processing, Mapping)
            model, provenance = _load_and_compare(reader, backend, place, torch_dtype, wanted, strict)
    # Parameters that require gradients would double the cost of every backward pass.
    for module in (model, getattr(model, "original_model", None)):
        if module is not None:
            module.requires_grad_(False).eval()
    ScopedModel.of(model).cache.provenance = provenance
    remember(ScopedModel.of(model))
    return model


def model_record(model: ModelLike) -> ModelRecord:
    """What a model is: name, revision, backend, dtype, device, processing and sizes.

    Args:
        model: from `load_model` or elsewhere; for one from elsewhere the record is derived from `model.cfg`.

    Returns:
        A ModelRecord. Its revision is None, and its processing flags may be, where they are not known.

    Example:
        >>> record = ls.model_record(model)
        >>> record.name, record.dtype, record.n_layers, record.d_model
        ('custom', 'float64', 2, 16)
    """
    scoped = ScopedModel.of(model)
    cfg, known = scoped.cfg, scoped.cache.provenance
    parameter = next(iter(scoped.module.parameters()))
    return ModelRecord(
        name=known.name if known else getattr(cfg, "model_name", None) or "custom",
        revision=known.revision if known else None,
        backend=scoped.backend,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        processing=dict(known.processing) if known else _derived_processing(scoped.module),
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        n_heads=cfg.n_heads,
        products=rounded_products(parameter.device, parameter.dtype),
        rounding=unusual_rounding(parameter.device) or None,
        altered=alterations(scoped) or None,
    )


def available_models() -> list[AvailableModel]:
    """Lists the models that `load_model` takes by name, without asking the hub.

    Returns:
        One AvailableModel per name: the embedded model first, then the causal language models of TransformerLens in
        alphabetical order, each with its aliases and whether its weights are on this computer.

    Example:
        >>> models = ls.available_models()
        >>> models[0].name, [model.aliases for model in models if model.name == "gpt2"]
        ('gemma-3-270m', [('gpt2-small',)])
    """
    from huggingface_hub import try_to_load_from_cache

    embedded_is_cached = (embedded.embedded_path() / "manifest.json").is_file()
    return [
        AvailableModel(embedded.EMBEDDED_NAME, (), embedded_is_cached),
        *(
            AvailableModel(name, tuple(aliases), isinstance(try_to_load_from_cache(name, "config.json"), str))
            for name, aliases in sorted(transformer_lens_names().items(), key=lambda item: item[0].lower())
        ),
    ]


def _derived_processing(model: Model) -> dict[str, bool | None]:
    if getattr(model, "compatibility_mode", None) is False:
        return dict.fromkeys(PROCESSING_FLAGS, False)
    processing: dict[str, bool | None] = dict.fromkeys(PROCESSING_FLAGS)
    if (normalization := getattr(model.cfg, "normalization_type", None)) is not None:
        processing["fold_ln"] = normalization.endswith("Pre")
    return processing


def _load_and_compare(
    reader: Reader, backend: str, place: _Place, dtype: torch.dtype, wanted: Mapping[str, bool], strict: bool
) -> tuple[Any, Provenance]:
    name, class_name = reader.source.name, reader.class_name
    backends.refuse_unsupported(reader.config, class_name, backend)
    cfg, processing = None, dict(wanted)
    if backend == "hooked":
        # What this refuses it refuses before any weights are read.
        cfg = hooked_config(reader.config, class_name, dtype=dtype, device=place.device)
        cfg.n_devices = place.n_devices
        processing = backends.possible_processing(wanted, cfg, class_name, strict=strict)
        cfg.model_name = name.split("/")[-1]

    # The Transformers model and its logits on the probe tokens.
    quantized = getattr(reader.config, "quantization_config", None) is not None
    device_map = {"": place.device} if quantized and place.device_map is None else place.device_map
    pretrained = reader.read_weights(dtype, device_map)
    if device_map is None and place.n_devices == 1:
        pretrained = pretrained.to(place.device)
    tokenizer = reader.read_tokenizer()
    token_ids = backends.probe_tokens(pretrained)
    with torch.inference_mode():
        expected = pretrained(token_ids, use_cache=False).logits[0].float()
    if not expected.isfinite().all():
        raise ModelError(f'{name!r} gives non-finite logits in {_plain(dtype)}: use dtype="float32" or "bfloat16"')

    # The model with hooks, from the same weights.
    if cfg is not None:
        model = build_hooked(pretrained, cfg, tokenizer, processing)
    else:
        model = backends.build_bridge(pretrained, class_name, tokenizer, name.split("/")[-1])
        processing = backends.possible_processing(wanted, model.cfg, class_name, strict=strict)
        if any(processing.values()):
            model.enable_compatibility_mode(disable_warnings=True, **processing)
        require_gradients(ScopedModel.of(model))
    # Both must give the same logits.
    with torch.inference_mode():
        logits = model(token_ids)[0].float().to(expected.device)
    backends.compare_logits(
        logits, expected, dtype=dtype, name=name, backend=backend, centered=processing["center_unembed"]
    )
    return model, Provenance(name, reader.source.revision or reader.revision, processing)


def _load_pickled(
    source: Source, backend: str, device: str, dtype: torch.dtype, processing: Mapping[str, bool], trusted: bool
) -> tuple[Any, Provenance]:
    if not trusted:
        raise ModelError(
            f"{source.name!r} is stored as a pickle, which can run any code when it is read: "
            "pass trust_remote_code=True if you trust its author"
        )
    if backend == "bridge":
        version = "" if has_hooked() else " and transformer-lens below 4"
        raise ModelError(f'{source.name!r} is in TransformerLens\'s own format: load it with backend="hooked"{version}')
    return load_pickled(source.name, device, dtype, processing), Provenance(source.name, None, processing)


def _read_backend(backend: Any) -> Literal["hooked", "bridge"]:
    if backend is None:
        return "hooked" if has_hooked() else "bridge"
    if not isinstance(backend, str) or backend not in ("hooked", "bridge"):
        raise ModelError(f'backend {str(backend)[:60]!r} is unknown: use "hooked" or "bridge"')
    if backend == "hooked":
        require_hooked()
    return "hooked" if backend == "hooked" else "bridge"


def _read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    value = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or value not in DTYPES.values():
        raise ModelError(f"dtype {_plain(dtype)!r} is unknown: use one of {', '.join(DTYPES)}")
    return value


def _read_place(
    backend: str,
    device: str | None,
    n_devices: int,
    device_map: str | Mapping[str, Any] | None,
    dtype: torch.dtype,
) -> _Place:
    if device_map is not None and backend == "hooked":
        raise ModelError('device_map is for backend="bridge": spread a HookedTransformer by n_devices')
    if device_map is not None and device is not None:
        raise ModelError(f"device {device!r} and a device_map were both given: use one of them")
    if n_devices != 1 and backend == "bridge":
        raise ModelError('n_devices is for backend="hooked": spread a bridge by device_map="auto"')
    place = _read_device(device, dtype)
    if n_devices < 1 or (n_devices > 1 and not place.startswith("cuda")):
        raise ModelError(f'n_devices is a number of GPUs, from 1 on; got {n_devices} for the device "{place}"')
    if n_devices > 1 and n_devices > torch.cuda.device_count():
        raise ModelError(f"n_devices is {n_devices}, and this computer has {torch.cuda.device_count()} GPUs")
    return _Place(place, n_devices, device_map)


def _read_device(device: str | None, dtype: torch.dtype) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, dtype=dtype, device=place).item()
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"device {device!r} cannot hold {_plain(dtype)} numbers here ({first_line(error)}): "
            'use "cpu", or leave device out'
        ) from error
    return str(place)


def _read_processing(processing: bool | Mapping[str, bool]) -> dict[str, bool]:
    if isinstance(processing, bool):
        return dict.fromkeys(PROCESSING_FLAGS, processing)
    if not isinstance(processing, Mapping):
        raise ModelError(f"processing {processing!r} is neither a bool nor a mapping of flags to bools")
    for flag in processing:
        if flag not in PROCESSING_FLAGS:
            raise ModelError(f"processing flag {flag!r} is unknown: use some of {', '.join(PROCESSING_FLAGS)}")
    return {flag: bool(processing.get(flag, False)) for flag in PROCESSING_FLAGS}


def _plain(dtype: str | torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
