"""Reads config, weights and tokenizer in Transformers' format from a folder, the local cache or the hub."""

from __future__ import annotations

import contextlib
import copy
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from lens_scopes.errors import ModelError, near_names
from lens_scopes.models import gemma as embedded
from lens_scopes.models.names import Source, official_name, suggest_models

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
# TransformerLens leaves the tokenizers of these without BOS.
_NO_BOS = ("OlmoForCausalLM", "OlmoeForCausalLM", "Olmo2ForCausalLM", "Qwen3ForCausalLM", "PhiForCausalLM")

Loaded = TypeVar("Loaded")


class Reader:
    """Reads the parts of one model; nothing from the hub that the local Hugging Face cache has.

    `architecture` is the Transformers class or model type where config.json leaves it out or states another.
    Every part is of the commit that the config was found at.
    """

    def __init__(self, source: Source, architecture: str | None, trust_remote_code: bool) -> None:
        self.source = source
        self.trust_remote_code = trust_remote_code
        self.revision: str | None = None
        self._model_class = _model_class(architecture)
        self.config = self._local_first(self._read_config)
        if architecture is None:
            self._model_class = _auto_class(self.config)
        self.revision = self._commit()

    @property
    def class_name(self) -> str:
        """The name of the Transformers class that computes the logits, such as "GPT2LMHeadModel"."""
        if not self._model_class.__name__.startswith("Auto"):
            return self._model_class.__name__
        stated = getattr(self.config, "architectures", None) or [self.config.model_type]
        return _classes_by_type().get(self.config.model_type, stated[0])

    def read_weights(self, dtype: torch.dtype, device_map: str | Mapping[str, Any] | None = None) -> Any:
        """The Transformers model in `dtype`, in eval mode, with frozen parameters and plain ("eager") attention; on the
        devices of `device_map` where one is given."""

        self._refuse_larger_config()

        def read(**options: Any) -> Any:
            return self._model_class.from_pretrained(
                str(self.source.location),
                config=copy.deepcopy(self.config),
                dtype=dtype,
                attn_implementation="eager",
                experts_implementation="eager",  # whose products know every dtype, and several directions together
                output_loading_info=True,
                device_map=device_map,
                **options,
            )

        pretrained, report = self._local_first(read)
        absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if absent:
            raise ModelError(
                f"the weights of {self.source.name!r} do not fit its config: {len(absent)} are missing or of another "
                f"shape, such as {absent[0]}"
            )
        return pretrained.requires_grad_(False).eval()

    def _refuse_larger_config(self) -> None:
        """Refuses a folder whose config describes a model with more parameters than its weight files have bytes.

        Transformers would build that model before it looks at the weights, which could take all memory.
        """
        location = self.source.location
        quantized = getattr(self.config, "quantization_config", None) is not None
        if not isinstance(location, Path) or self.source.embedded or quantized:
            return
        size = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in location.glob(kind))
        options = {"trust_remote_code": self.trust_remote_code}
        # On the meta device: only to count its parameters.
        with torch.device("meta"):
            config = copy.deepcopy(self.config)
            is_auto = self._model_class.__name__.startswith("Auto")
            model = self._model_class.from_config(config, **options) if is_auto else self._model_class(config)
        count = sum(parameter.numel() for parameter in model.parameters())
        if 0 < size < count:
            raise ModelError(
                f"the weights of {self.source.name!r} do not fit its config: a {type(model).__name__} of this config "
                f"has {count:,} parameters, and the weight files have {size:,} bytes"
            )

    def read_tokenizer(self) -> Any:
        """The tokenizer, set to add BOS as TransformerLens expects it to be; None for a folder that has none."""
        from transformers import AutoTokenizer

        location = self.source.location
        if self.source.embedded:
            return embedded.read_tokenizer(Path(location))
        if isinstance(location, Path) and not any((location / name).is_file() for name in _TOKENIZER_FILES):
            return None

        def read(**options: Any) -> Any:
            # TransformerLens's own choice: the fast tokenizer of Phi adds no BOS.
            options["use_fast"] = self.class_name != "PhiForCausalLM"
            try:
                return AutoTokenizer.from_pretrained(
                    str(location), add_bos_token=self.class_name not in _NO_BOS, **options
                )
            except ValueError:
                return AutoTokenizer.from_pretrained(str(location), **options)

        return self._local_first(read)

    def _read_config(self, **options: Any) -> Any:
        from transformers import AutoConfig

        config_class = getattr(self._model_class, "config_class", None) or AutoConfig
        return config_class.from_pretrained(str(self.source.location), **options)

    def _commit(self) -> str | None:
        from huggingface_hub import try_to_load_from_cache

        if isinstance(self.source.location, Path):
            return None
        config_file = try_to_load_from_cache(self.source.location, "config.json")
        return Path(config_file).parent.name if isinstance(config_file, str) else None

    def _local_first(self, read: Callable[..., Loaded]) -> Loaded:
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if isinstance(self.source.location, Path):
            return read(local_files_only=True, **options)
        if self.revision:
            options["revision"] = self.revision
        try:
            return read(local_files_only=True, **options)
        except OSError:
            _require_hub(self.source.name)
            return read(local_files_only=False, **options)


@contextlib.contextmanager
def one_sentence(source: Source) -> Iterator[None]:
    """Turns whatever the libraries raise while loading into one ModelError of one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_explain(source, error)) from error


def first_line(error: BaseException) -> str:
    """The kind and first line of an error from elsewhere, to quote in a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:300]}" if lines else type(error).__name__


def _model_class(architecture: str | None) -> Any:
    import transformers

    if architecture is None:
        return transformers.AutoModelForCausalLM
    by_type = _classes_by_type()
    class_name = by_type.get(architecture, architecture)
    if class_name not in by_type.values():
        near = near_names(architecture, (*by_type.values(), *by_type), n=3, cutoff=0.5)
        raise ModelError(
            f"architecture {architecture!r} is no causal language model of Transformers: "
            f"use its class or model type, such as {' or '.join(map(repr, near or ['GPT2LMHeadModel', 'llama']))}"
        )
    return getattr(transformers, class_name)


def _auto_class(config: Any) -> Any:
    """What reads a model of this config: one of text, or of images and text where Transformers has no other."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as OF_TEXT

    known = config.model_type in OF_TEXT or config.model_type not in _classes_by_type()
    return transformers.AutoModelForCausalLM if known else transformers.AutoModelForImageTextToText


def _classes_by_type() -> dict[str, Any]:
    """The names of the classes that predict tokens, from text alone or from images and text, by model type."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return {**MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, **MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}


def _require_hub(name: str) -> None:
    """Raises ModelError at once where the hub cannot be reached; its client would retry for half a minute."""
    from huggingface_hub import constants

    offline = constants.is_offline_mode()
    if not offline and "https" not in urllib.request.getproxies():
        address = urllib.parse.urlsplit(constants.ENDPOINT)
        try:
            socket.create_connection((address.hostname or "", address.port or 443), timeout=10).close()
        except OSError:
            offline = True
    if offline:
        raise ModelError(_no_network(name))


def _no_network(name: str) -> str:
    guess = "" if official_name(name) else suggest_models(name).replace(": ", ", or ", 1)
    return (
        f"{name!r} is not in the local Hugging Face cache and the hub cannot be reached: download it there once with a "
        f"network, give the path of a folder that holds it, or use the embedded {embedded.EMBEDDED_NAME!r}{guess}"
    )


def _explain(source: Source, error: BaseException) -> str:
    name, kinds = source.name, {type(cause).__name__ for cause in _causes(error)}
    if isinstance(source.location, str):
        if "GatedRepoError" in kinds:
            return f"{name!r} is gated on the hub: accept its licence on its page and log in with `hf auth login`"
        if "RepositoryNotFoundError" in kinds:
            return f"{name!r} does not exist on the hub, or is private{suggest_models(name)}"
        if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ReadTimeout"}:
            return _no_network(name)
    if "trust_remote_code" in str(error):
        return f"{name!r} needs code from its repository to run: pass trust_remote_code=True if you trust its author"
    return f"{name!r} cannot be loaded: {first_line(error)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
