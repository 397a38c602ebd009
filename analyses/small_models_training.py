"""Small language models, trained on the documentation that installed packages ship.

python analyses/small_models_training.py gpt2_like          trains one of MODELS, or goes on from its last checkpoint
python analyses/small_models_training.py llama_like --seconds 600      stops after so many seconds of processor time

The text is the docstrings of the standard library and of PACKAGES, whole modules apart for training and for measuring;
a paragraph is read once, wherever it first stands. Text, tokenizer, checkpoints and the finished model, a folder in
Transformers' format, stay under out/small_models/. A seed draws the order of the rows; each row begins with BOS.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from records import ROOT
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_scopes.results.storage.writing import write_whole

FOLDER = ROOT / "out" / "small_models"
PACKAGES = ("numpy", "scipy", "pandas", "sympy", "networkx", "torch", "matplotlib", "IPython", "huggingface_hub")
BOS = "<|endoftext|>"
VOCABULARY, CONTEXT, ROWS = 2048, 128, 16
STEPS, WARM_UP, CHECKPOINT_EVERY = 1800, 100, 50
LEARNING_RATE, FINAL_SHARE, WEIGHT_DECAY, CLIP = 1.5e-3, 0.1, 0.1, 1.0
SEED = 0
HELD_OUT_ROWS = 256
BIGRAM_PRIOR = 50.0
"""Counts that the unigram distribution adds to each row of the bigram table."""

_SHAPE = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2_like": {
        **_SHAPE,
        **{"model_type": "gpt2", "n_positions": CONTEXT, "n_embd": 256, "n_layer": 6, "n_head": 8},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    },
    "llama_like": {
        **_SHAPE,
        **{"model_type": "llama", "max_position_embeddings": CONTEXT, "hidden_size": 256, "num_hidden_layers": 6},
        **{"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 704},
        "tie_word_embeddings": False,
    },
}
"""LayerNorm, learned positions, as many KV heads as query heads; RMSNorm, rotary positions, SwiGLU, grouped heads."""


# Text


def read_documents() -> dict[str, list[str]]:
    """The paragraphs of every module's docstrings, by the module's path; none twice."""
    roots = {"stdlib": Path(sysconfig.get_paths()["stdlib"])}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            roots[package] = Path(spec.origin).parent
    documents: dict[str, list[str]] = {}
    known: set[str] = set()
    for name, root in roots.items():
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if {"site-packages", "test", "tests"} & set(inside.parts):
                continue
            new = [text for text in docstring_paragraphs(path) if text not in known]
            known.update(new)
            if sum(map(len, new)) >= 400:
                documents[f"{name}/{inside.as_posix()}"] = list(dict.fromkeys(new))
    return documents


def docstring_paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of a file's docstrings, in order; nothing of a file that Python cannot read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node) or ""
            yield from (part.rstrip() for part in text.split("\n\n") if part.strip())


def is_held_out(name: str) -> bool:
    """Whether a module is for measuring: one of forty, by a digest of its path."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 40 == 0


@dataclass(frozen=True)
class Text:
    """The text, tokenized.

    Attributes:
        train: all training modules one after the other, BOS before each.
        held_out: the tokens of each held-out module.
        token_bytes: the number of bytes each token stands for; 0 for BOS.
        about: size and digest of the text, and the versions of the packages.
    """

    train: np.ndarray
    held_out: list[np.ndarray]
    token_bytes: np.ndarray
    about: dict[str, Any]

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Text:
        """The text of a folder; read from the packages, and a tokenizer trained on it, where it is not there yet."""
        path = folder / "text.npz"
        if not path.is_file():
            _make_text(folder)
        with np.load(path) as arrays:
            ends = np.cumsum(arrays["lengths"])[:-1]
            held_out = np.split(arrays["held_out"], ends)
            about = json.loads((folder / "text.json").read_text(encoding="utf-8"))
            return cls(arrays["train"], held_out, arrays["token_bytes"], about)


def _make_text(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    documents = {name: "\n\n".join(paragraphs) for name, paragraphs in read_documents().items()}
    train = [text for name, text in documents.items() if not is_held_out(name)]
    held_out = [text for name, text in documents.items() if is_held_out(name)]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(train, trainer)
    write_whole(folder / "tokenizer.json", tokenizer.to_str().encode("utf-8"))

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, dtype=np.uint16) for encoding in tokenizer.encode_batch(texts)]

    rows, bos = encode(held_out), np.zeros(1, dtype=np.uint16)
    words = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    arrays = {
        "train": np.concatenate([piece for ids in encode(train) for piece in (bos, ids)]),
        "held_out": np.concatenate(rows),
        "lengths": np.array([len(ids) for ids in rows]),
        "token_bytes": np.array([0, *map(len, words[1:])]),  # one character of the byte alphabet for each byte
    }
    about = {
        "modules": {"train": len(train), "held out": len(held_out)},
        "bytes": {"train": sum(len(t.encode()) for t in train), "held out": sum(len(t.encode()) for t in held_out)},
        "tokens": {"train": len(arrays["train"]), "held out": len(arrays["held_out"])},
        "sha256": hashlib.sha256(json.dumps(documents).encode()).hexdigest()[:16],
        "packages": {"python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}},
    }
    write_whole(folder / "text.json", json.dumps(about, indent=1).encode("utf-8"))
    with (folder / "text.partial.npz").open("wb") as file:
        np.savez(file, **arrays)
    (folder / "text.partial.npz").replace(folder / "text.npz")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Training


def row_starts(count: int, seed: int = SEED) -> np.ndarray:
    """Where the rows of CONTEXT − 1 tokens begin in `count` tokens, in the order in which training reads them."""
    starts = np.arange(0, count - CONTEXT + 1, CONTEXT - 1)
    return np.random.default_rng(seed).permutation(starts)


def rows_from(tokens: np.ndarray, starts: np.ndarray) -> Tensor:
    """Rows of BOS and the CONTEXT − 1 tokens from each start."""
    rows = [np.concatenate(([0], tokens[start : start + CONTEXT - 1])) for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine down to FINAL_SHARE of the peak."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2)


def build(config: Mapping[str, Any], seed: int = SEED) -> Any:
    """A Transformers model with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")


def losses(model: Any, rows: Tensor) -> Tensor:
    """Cross-entropy in nats of every token after the first of each row."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(rows, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none")


class Training:
    """A model, its optimizer and the steps done; on disk every CHECKPOINT_EVERY steps."""

    def __init__(self, name: str, folder: Path = FOLDER, steps: int = STEPS) -> None:
        self.name, self.folder, self.steps = name, folder, steps
        self.checkpoint = folder / f"{name}.checkpoint.safetensors"
        self.model = build(MODELS[name])
        self.parameters = dict(self.model.named_parameters())
        matrices = [values for values in self.parameters.values() if values.ndim > 1]
        vectors = [values for values in self.parameters.values() if values.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=LEARNING_RATE,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.is_file():
            self._read()

    def _read(self) -> None:
        with safe_open(str(self.checkpoint), "pt") as file:
            self.step, self.seconds = int(file.metadata()["step"]), float(file.metadata()["seconds"])
            for name, values in self.parameters.items():
                values.data.copy_(file.get_tensor(name))
                state = {key: file.get_tensor(f"{name}.{key}") for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[values] = {"step": torch.tensor(float(self.step)), **state}

    def save(self) -> None:
        """Writes weights, moments and the number of steps, whole or not at all."""
        tensors = {name: values.data for name, values in self.parameters.items()}
        for name, values in self.parameters.items():
            tensors |= {f"{name}.{key}": self.optimizer.state[values][key] for key in ("exp_avg", "exp_avg_sq")}
        partial = self.checkpoint.with_suffix(".partial")
        save_file(tensors, str(partial), {"step": str(self.step), "seconds": f"{self.seconds:.1f}"})
        partial.replace(self.checkpoint)

    def advance(self, rows: Tensor) -> float:
        """One step; its loss in nats a token."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps)
        loss = losses(self.model, rows).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()


def train(name: str, folder: Path = FOLDER, steps: int = STEPS, seconds: float = math.inf) -> Path | None:
    """Trains a model to its last step and returns its folder; None where the seconds were not enough."""
    finished = folder / name
    if (finished / "config.json").is_file():
        return finished
    text, training = Text.load(folder), Training(name, folder, steps)
    starts, began, before = row_starts(len(text.train)), time.process_time(), training.seconds
    while training.step < steps:
        if (spent := time.process_time() - began) > seconds:
            training.save()
            return None
        chosen = np.arange(training.step * ROWS, (training.step + 1) * ROWS) % len(starts)
        loss = training.advance(rows_from(text.train, starts[chosen]))
        training.seconds = before + spent
        if training.step % CHECKPOINT_EVERY == 0 or training.step == steps:
            training.save()
            typer.echo(f"{name} step {training.step}: {loss:.3f} nats a token, {training.seconds:.0f} s", err=True)

    # The tokenizer goes beside the weights, the configuration last: a folder that has one is whole.
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=BOS, eos_token=BOS, unk_token=BOS
    )
    tokenizer.save_pretrained(finished)
    report = {"steps": steps, "seconds": round(training.seconds), "tokens": steps * ROWS * (CONTEXT - 1)}
    report |= {"parameters": sum(values.numel() for values in training.parameters.values())}
    report |= {"bits per byte": bits_per_byte(training.model, text), "text": text.about}
    write_whole(finished / "training.json", json.dumps(report, indent=1).encode("utf-8"))
    training.model.save_pretrained(finished)
    return finished


# How good is it?


def held_out_rows(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """The rows on which losses are compared: HELD_OUT_ROWS drawn from the held-out modules."""
    tokens = np.concatenate(text.held_out)
    return tokens, row_starts(len(tokens))[:HELD_OUT_ROWS]


def bits_per_byte(model: Any, text: Text) -> dict[str, float]:
    """Held-out loss of the model, of a unigram and of a bigram table, in bits per byte."""
    tokens, starts = held_out_rows(text)
    rows = rows_from(tokens, starts)
    model.eval()
    with torch.no_grad():
        own = torch.cat([losses(model, part) for part in rows.split(ROWS)])
    unigram, bigram = table_losses(text.train, rows.numpy())
    n_bytes = float(text.token_bytes[rows[:, 1:].numpy()].sum())
    totals = {"model": float(own.double().sum()), "unigram": unigram, "bigram": bigram}
    return {name: total / math.log(2) / n_bytes for name, total in totals.items()}


def table_losses(train_tokens: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Cross-entropy in nats, summed over the rows' tokens after the first, under counts of the training tokens."""
    counts = np.bincount(train_tokens, minlength=VOCABULARY) + 1.0
    p = counts / counts.sum()
    pairs = Counter(zip(train_tokens[:-1].tolist(), train_tokens[1:].tolist(), strict=True))
    before, after = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    joint = np.array([pairs[pair] for pair in zip(before.tolist(), after.tolist(), strict=True)], dtype=float)
    following = np.bincount(train_tokens[:-1], minlength=VOCABULARY)[before]
    conditional = (joint + BIGRAM_PRIOR * p[after]) / (following + BIGRAM_PRIOR)
    return float(-np.log(p[after]).sum()), float(-np.log(conditional).sum())


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")],
    seconds: Annotated[float, typer.Option(help="Stop after so many seconds of processor time.")] = math.inf,
    folder: Annotated[Path, typer.Option(help="Where text, checkpoints and models are kept.")] = FOLDER,
) -> None:
    """Train a small model, or go on with it."""
    if name not in MODELS:
        raise typer.BadParameter(f"no model is called {name!r}; the models are {', '.join(MODELS)}")
    torch.set_num_threads(1)
    finished = train(name, folder, seconds=seconds)
    if finished is None:
        typer.echo(f"{name} is not finished; the same command goes on.")
        return
    typer.echo((finished / "training.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
