"""A three-layer attention-only model whose weights find the indirect object, set by hand.

After Wang et al., "Interpretability in the wild" (arXiv:2211.00593), in the smallest form: "START Mary AND John GAVE
John TO" is continued by " Mary". The residual stream has five parts: the token, the position, a name found twice, a
name to be avoided, and the output, which the unembedding reads.

- L0H0, the duplicate-token head, attends from a name to the same name before it, else to START, and copies it into the
  second name's found-twice part.
- L1H1, the inhibition head, attends from TO to the position with a name found twice, and copies it into TO's avoided
  part.
- L2H2, the name mover, attends from TO to names, not to the avoided one, and copies the name into the output.

The other heads are noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tiny_models import hooked_transformer, on_either_line

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

START, AND, GAVE, TO, MARY, JOHN, ANNE = range(7)
D_VOCAB, N_CTX = 9, 60
SHARPNESS = 4.0  # attention scores of a match: sharp, yet with gradient left

PROMPT = [START, MARY, AND, JOHN, GAVE, JOHN, TO]  # Mary
SWAPPED = [START, MARY, AND, JOHN, GAVE, MARY, TO]  # John: the second name is the other one
RENAMED = [START, ANNE, AND, JOHN, GAVE, JOHN, TO]  # Anne: the indirect object is another one
FIRST_NAME, SECOND_JOHN, END = 1, 5, 6


@on_either_line
def ioi_circuit(seed: int = 0) -> HookedTransformer:
    """The model, in float64, without normalisation."""
    sizes = (D_VOCAB, N_CTX, D_VOCAB, D_VOCAB, D_VOCAB)
    edges = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    token, place, twice, avoided, output = (slice(*pair) for pair in zip(edges, edges[1:], strict=False))
    d_head = D_VOCAB + N_CTX + 1
    names, places, constant = slice(0, D_VOCAB), slice(D_VOCAB, D_VOCAB + N_CTX), D_VOCAB + N_CTX  # within a head
    model = hooked_transformer(
        n_layers=3, n_heads=3, d_model=edges[-1], d_head=d_head, n_ctx=N_CTX, d_vocab=D_VOCAB, attn_only=True,
        normalization_type=None, positional_embedding_type="standard", dtype=torch.float64, device="cpu",
        use_attn_scale=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = 0.01 if ".attn.W_" in name else 0.0
        parameter.data = noise * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    each_token, each_place = torch.eye(D_VOCAB, dtype=torch.float64), torch.eye(N_CTX, dtype=torch.float64)
    is_name = torch.zeros(D_VOCAB, dtype=torch.float64)
    is_name[MARY:] = 1
    each_name = torch.diag(is_name)
    model.embed.W_E.data[:, token] = each_token
    model.pos_embed.W_pos.data[:, place] = each_place
    model.unembed.W_U.data[output, :] = 4 * each_token

    duplicate, inhibition, mover = (model.blocks[layer].attn for layer in range(3))
    for head, attention in enumerate((duplicate, inhibition, mover)):
        for parameter in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O):
            parameter.data[head] = 0

    duplicate.W_Q.data[0, token, names] = 2 * SHARPNESS * each_token
    duplicate.W_K.data[0, token, names] = each_token
    duplicate.W_Q.data[0, place, places] = -4 * SHARPNESS * each_place  # not to itself
    duplicate.W_K.data[0, place, places] = each_place
    duplicate.W_Q.data[0, place, constant] = 1
    duplicate.W_K.data[0, token.start + START, constant] = SHARPNESS
    duplicate.W_V.data[0, token, names] = each_name
    duplicate.W_O.data[0, names, twice] = each_token

    inhibition.W_Q.data[1, token.start + TO, constant] = SHARPNESS
    inhibition.W_K.data[1, twice, constant] = 1
    inhibition.W_V.data[1, twice, names] = each_token
    inhibition.W_O.data[1, names, avoided] = each_token

    mover.W_Q.data[2, token.start + TO, constant] = SHARPNESS
    mover.W_K.data[2, token, constant] = is_name
    mover.W_Q.data[2, avoided, names] = -SHARPNESS * each_token
    mover.W_K.data[2, token, names] = each_token
    mover.W_V.data[2, token, names] = each_name
    mover.W_O.data[2, names, output] = each_token
    return model.requires_grad_(False).eval()
