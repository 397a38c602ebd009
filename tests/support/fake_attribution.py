"""An `Attribution` with plausible made-up numbers, so that the views are tested without a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from lens_scopes.engine.final_state import PredictedToken, Prediction
from lens_scopes.results.attribution import Attribution

GERMAN_TOKENS = ["<bos>", "German", ":", " Der", " Hund", " schl", "äft", " auf", " dem", " Sofa", "."] + [
    " English", ":", " The", " dog", " sleeps", " on", " the"
]  # fmt: skip

HOSTILE_TOKENS = [
    "<bos>",
    "</script>",
    "<script>window.executed=1</script>",
    "<img src=x onerror=window.executed=1>",
    "<b>",
    "&amp;",
    "<!--",
    "\n",
    "😀",
    " שלום",
    " مرحبا",
    "\u202e",
    "{{7*7}}",
    '" onmouseover="window.executed=1',
    "' autofocus onfocus='window.executed=1",
    "${window.executed=1}",
    "\x1b[31m",
    "\x00",
    "",
    "  ",
    "\t",
    "日本",
    "$x^{2$",
    "\\frac",
    "[bold red]",
    ":smile:",
]

_PREDICTED = {" sofa": 0.7803, " couch": 0.11, " floor": 0.02, " bed": 0.011, " Sofa": 0.009, " chair": 0.004} | {
    " table": 0.002, " carpet": 0.001, " bench": 0.0004, "\n": 0.00001
}  # fmt: skip


def fake_attribution(
    tokens: Sequence[str] = GERMAN_TOKENS,
    scores: Sequence[float] | None = None,
    n_layers: int = 18,
    **fields: Any,
) -> Attribution:
    """Made-up scores: the copied word leads early, the last tokens take over, BOS is far above all.

    Args:
        tokens: the prompt; `<bos>` is special.
        scores: instead of the made-up ones.
        n_layers: rows of the layers; 0 for none.
        fields: any other field of the attribution, replaced.
    """
    generator = torch.Generator().manual_seed(0)
    n = len(tokens)
    special = [token == "<bos>" for token in tokens]
    base = torch.rand(n, generator=generator, dtype=torch.float64) * 0.25 + 0.03
    for token, value in {" Sofa": 1.0, " sleeps": 0.42, " on": 0.5, " English": 0.38, " schl": 0.3}.items():
        if token in tokens:
            base[list(tokens).index(token)] = value
    base = base * 14.2
    depth = torch.linspace(0, 1, max(n_layers, 1), dtype=torch.float64)[:, None]
    place = torch.linspace(0, 1, n, dtype=torch.float64)[None]
    late = torch.exp(-(((place - 1) / 0.12) ** 2)) * depth**3 * 128
    noise = 0.6 + 0.8 * torch.rand(max(n_layers, 1), n, generator=generator, dtype=torch.float64)
    layers = (base * (1 - 0.9 * depth) * noise + late) * torch.exp(-2.5 * depth)
    sink = torch.tensor([40.0 if is_special else 1.0 for is_special in special], dtype=torch.float64)
    top = [PredictedToken(1000 + i, token, p) for i, (token, p) in enumerate(_PREDICTED.items())]
    values: dict[str, Any] = {
        "scores": base * sink if scores is None else torch.tensor(scores, dtype=torch.float64),
        "tokens": list(tokens),
        "token_ids": list(range(2, 2 + n)),
        "special": special,
        "offsets": None,
        "text": "".join(token for token, is_special in zip(tokens, special, strict=True) if not is_special),
        "position": n - 1,
        "target": top[0],
        "prediction": Prediction(top, 0.871, 41.37),
        "scope": "semantic",
        "objective": "Semantic(' sofa')",
        "layers": layers * sink if n_layers else None,
        "layer_names": [f"blocks.{i}.hook_resid_pre" for i in range(n_layers)],
        "contract": {
            "output explained": f"the logit of ' sofa' at position {n - 1}, before the softmax",
            "eligible features": f"the {n} token embeddings at hook_embed, <bos> included",
            "generative process": "none: gradients around this very prompt, no perturbed input is run",
            "held fixed": "the parameters; every path carries gradient",
            "score attributed": "s_t = ‖w_targetᵀ J_t‖₂, J_t = ∂y/∂x_t",
        },
        "spec": {"scope": "semantic", "target": " sofa", "layers": True},
        "model": {
            "name": "gemma-3-270m",
            "revision": "embedded",
            "backend": "hooked",
            "dtype": "float32",
            "device": "cpu",
            "processing": {"fold_ln": False, "center_unembed": False},
            "n_layers": 18,
            "d_model": 640,
            "d_vocab": 262_144,
            "n_ctx": 32_768,
            "n_heads": 4,
        },
        "settings": {
            "objective": {"scope": "semantic", "token": " sofa"},
            "readout": {"name": "norm"},
            "sites": ["hook_embed"],
            "seed": None,
        },
        "versions": {"lens_scopes": "0.1.0", "torch": "2.13.0"},
    }
    return Attribution(**(values | fields))


STORY_TOKENS = ["<bos>", "Ann", " bakes", ".", " She", " sings", ".", "\n", "Bob", " <b>", "naps", "!"]


def fake_story(**fields: Any) -> Attribution:
    """Three sentences on two lines, with offsets and scores of both signs, so that they can be grouped."""
    ends = [0]
    for token in STORY_TOKENS[1:]:
        ends.append(ends[-1] + len(token))
    offsets = [(0, 0), *itertools.pairwise(ends)]
    scores = [40.0, 1.0, 2.0, 0.5, -4.0, -1.0, 0.25, 0.0, 0.5, 0.25, 1.0, -0.25]
    return fake_attribution(STORY_TOKENS, scores, offsets=offsets, **fields)
