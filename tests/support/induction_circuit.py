"""A two-layer attention-only model whose weights are an induction circuit, set by hand.

The residual stream has four parts: the token, the position, the previous token and the output. Head L0H0 attends to
the previous position and copies its token into the previous-token part; head L1H1 looks for the place whose previous
token is the current one and copies the token there into the output part, which the unembedding reads. The other heads
are noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tiny_models import hooked_transformer, on_either_line

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

D_VOCAB = 11
N_CTX = 60
SHARPNESS = 5.0  # attention scores of a match: sharp, yet with gradient left

PROMPT = [0, 4, 7, 2, 9, 5, 8, 3, 4]  # … 4 7 … 4: induction says 7, read from position 2
ANSWER = 7
SOURCE = 2


@on_either_line
def induction_circuit(seed: int = 0) -> HookedTransformer:
    """The model, in float64, without normalisation."""
    token, place, previous, output = (slice(start, stop) for start, stop in _parts())
    d_model, d_head = output.stop, N_CTX
    model = hooked_transformer(
        n_layers=2, n_heads=3, d_model=d_model, d_head=d_head, n_ctx=N_CTX, d_vocab=D_VOCAB, attn_only=True,
        normalization_type=None, positional_embedding_type="standard", dtype=torch.float64, device="cpu",
        use_attn_scale=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = 0.02 if ".attn.W_" in name else 0.0
        parameter.data = noise * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    tokens, places = torch.eye(D_VOCAB, dtype=torch.float64), torch.eye(N_CTX, dtype=torch.float64)
    model.embed.W_E.data[:, token] = tokens
    model.pos_embed.W_pos.data[:, place] = places
    model.unembed.W_U.data[output, :] = 4 * tokens

    first, second = model.blocks[0].attn, model.blocks[1].attn
    for parameter in (first.W_Q, first.W_K, first.W_V, first.W_O):
        parameter.data[0] = 0
    for parameter in (second.W_Q, second.W_K, second.W_V, second.W_O):
        parameter.data[1] = 0
    first.W_Q.data[0, place, :] = SHARPNESS * places
    first.W_K.data[0, place, :] = torch.roll(places, 1, dims=1)  # position p answers to p + 1
    first.W_V.data[0, token, :D_VOCAB] = tokens
    first.W_O.data[0, :D_VOCAB, previous] = tokens
    second.W_Q.data[1, token, :D_VOCAB] = SHARPNESS * tokens
    second.W_K.data[1, previous, :D_VOCAB] = tokens
    second.W_V.data[1, token, :D_VOCAB] = tokens
    second.W_O.data[1, :D_VOCAB, output] = tokens
    return model.requires_grad_(False).eval()


def _parts() -> list[tuple[int, int]]:
    edges = [0, D_VOCAB, D_VOCAB + N_CTX, 2 * D_VOCAB + N_CTX, 3 * D_VOCAB + N_CTX]
    return list(zip(edges, edges[1:], strict=False))
