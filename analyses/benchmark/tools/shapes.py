"""Makes a model of a known shape with random weights, for timing: speed does not depend on what the weights say.

python analyses/benchmark/tools/shapes.py qwen2.5-0.5b out/qwen    the shape of Qwen2.5-0.5B: 2 GB
python analyses/benchmark/tools/shapes.py llama-3.2-1b out/llama   that of LLaMA-3.2-1B: 5 GB
python analyses/benchmark/run.py --model out/qwen --only long --tokens 1024

The models have no tokenizer, so that token ids stand for a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "rope_theta": 1e6,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128_256,
        "rope_theta": 5e5,
    },
}
"""What the configuration files of the published models say, but for the scaling of rotations, which costs nothing."""


def make(shape: str, folder: Path, seed: int = 0) -> None:
    """Saves a model of a shape, float32, embeddings tied."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=8192)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if "norm" in name:  # equal ones would give every final state the same length, and Temperature Scope nothing
            weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)


def main(
    shape: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    folder: Annotated[Path, typer.Argument(help="Where to save it.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Make a model of random weights."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"unknown shape {shape!r}; known are {', '.join(SHAPES)}.")
    make(shape, folder, seed)


if __name__ == "__main__":
    typer.run(main)
