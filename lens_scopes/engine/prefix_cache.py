"""Copies of a prompt that differ from some position on run only from there: what comes before is the same for all.

A change of token t leaves keys and values before t as they are, so leaving out each token of a prompt in turn costs
half of what as many whole forward passes would.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import Batch, Hook, ScopedModel
from lens_scopes.engine.model.alterations import model_has_hooks


class PromptPrefix:
    """The keys and values of one prompt at every layer, to start changed copies of it from any position.

    Args:
        model: a model for which `start` says so.
        token_ids: the whole prompt, and what is read after it.
        n_read: how many of the last positions are read.

    Attributes:
        own_states: y at those positions of the prompt itself.
    """

    own_states: Float[Tensor, "read d_model"]

    def __init__(self, model: ScopedModel, token_ids: Sequence[int], n_read: int = 1) -> None:
        self.model = model
        self.n_read = n_read
        self.token_ids = list(token_ids)
        self._keys_and_values = model.start_prefix()
        self.own_states = self._run(0, 1, self._keys_and_values)[0]

    @classmethod
    def start(cls, model: ScopedModel, token_ids: Sequence[int], n_read: int = 1) -> PromptPrefix | None:
        """The prompt's keys and values; None where copies cannot start in its middle (`prefix_obstacle`), and where a
        user's own hooks expect to see every position."""
        return None if model_has_hooks(model) or model.prefix_obstacle else cls(model, token_ids, n_read)

    def final_states(
        self, first: int, rows: int, hooks: Sequence[tuple[str, Hook]]
    ) -> Float[Tensor, "{rows} read d_model"]:
        """y at the last positions of `rows` copies that are equal before position `first`.

        Args:
            first: the first position that runs again, none of those read being before it.
            hooks: forward hooks that change the copies; they see positions from `first` on.
        """
        keys_and_values = self.model.cut_prefix(self._keys_and_values, first, rows)
        with self.model.hooked(hooks):
            return self._run(first, rows, keys_and_values)

    def _run(self, first: int, rows: int, keys_and_values: object) -> Float[Tensor, "{rows} read d_model"]:
        ids = self.token_ids[first:]
        reads = [(row, place) for row in range(rows) for place in range(len(ids) - self.n_read, len(ids))]
        batch = Batch.of(self.model, [ids] * rows, reads)
        with torch.no_grad():
            return self.model.run_after(batch, keys_and_values).unflatten(0, (rows, self.n_read))
