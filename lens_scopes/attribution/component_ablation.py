"""Interventions: what the final state really becomes when heads or MLPs are set to a baseline at every position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.engine.ablations import COMPONENT_BASELINES, unknown_baseline
from lens_scopes.engine.backward import Progress, read_activations
from lens_scopes.engine.memory import Budget, run_in_chunks
from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.engine.token_ablation import text_mask, text_mean
from lens_scopes.errors import VALIDATED, PathError
from lens_scopes.prompts.read import PromptLike
from lens_scopes.scopes.other_prompt import OtherPrompt, as_baseline
from lens_scopes.scopes.paths import Component

OTHER_PROMPT = "prompt"

Baseline: TypeAlias = Annotated[Literal["zero", "mean", "shuffle"] | PromptLike, VALIDATED]

_AGREE = 0.5  # Spearman's ρ below which a warning says so
_BATCH_TOKENS = 4096  # padded tokens in one forward pass of ablated copies


def read_baseline(baseline: Baseline) -> tuple[str, OtherPrompt | None]:
    """The name of a baseline, and the other prompt where it is one, whose name is OTHER_PROMPT.

    Raises:
        PathError: for what is neither one of COMPONENT_BASELINES nor a prompt.
    """
    if isinstance(baseline, str) and baseline in COMPONENT_BASELINES:
        return baseline, None
    other = as_baseline(baseline)
    if other is None:
        raise PathError(unknown_baseline(baseline))
    return OTHER_PROMPT, other


def component_site(component: Component) -> str:
    """The hook that holds a component's output: hook_z for a head, hook_mlp_out for an MLP."""
    layer, head = component
    return f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"


def baseline_activations(
    model: ScopedModel,
    place: PromptPosition,
    activations: Mapping[str, Float[Tensor, "row pos *inner"]],
    baseline: str,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "row pos ..."]]:
    """What each activation is set to: zero; its mean over the prompt's non-special tokens; its value in a prompt of the
    same tokens in a random order, special tokens in place; or its value in the other prompt of the place. Answers
    follow the prompt in each."""
    if baseline == "zero":
        return {name: torch.zeros_like(values) for name, values in activations.items()}
    if baseline == "mean":
        mask = text_mask([place.special] * len(place.sequences))
        longest = max(map(len, place.sequences))
        mask = torch.nn.functional.pad(mask, (0, longest - mask.shape[1]))
        return {
            name: text_mean(values.detach(), mask.to(values.device)).to(values).expand_as(values)
            for name, values in activations.items()
        }
    sequences = _shuffle(place, generator) if place.other is None else place.other_sequences
    return read_activations(model, sequences, list(activations))


def _shuffle(place: PromptPosition, generator: torch.Generator) -> list[list[int]]:
    """What the model reads with the prompt's tokens in a random order, special ones in place."""
    movable = [index for index, is_special in enumerate(place.special) if not is_special]
    order = torch.randperm(len(movable), generator=generator).tolist()
    ids = list(place.token_ids)
    for index, source in zip(movable, order, strict=True):
        ids[index] = place.token_ids[movable[source]]
    return [[*ids, *sequence[len(ids) :]] for sequence in place.sequences]


def ablated_final_states(
    model: ScopedModel,
    place: PromptPosition,
    components: Sequence[Component],
    baselines: Mapping[str, Float[Tensor, "row pos ..."]],
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> Float[Tensor, "component read d_model"]:
    """y of every prediction after each component, alone, is set to its baseline at every position."""
    return changed_final_states(
        model, place, components, lambda rows: list(_row_hooks(rows, baselines)), progress, budget
    )


def changed_final_states(
    model: ScopedModel,
    place: PromptPosition,
    changes: Sequence[Any],
    hooks: Callable[[Sequence[Any]], list[tuple[str, Hook]]],
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> Float[Tensor, "change read d_model"]:
    """y of every prediction after each change, alone. Copies of what the model reads run as rows of one batch, as many
    at a time as memory holds.

    Args:
        place: the prompt, with the answers explained after it: one row of a copy each.
        changes: what to change, one copy each.
        hooks: makes the forward hooks for the changes of one batch, which copy by copy bring them about.
        progress: called with (changes done, changes in all).
        budget: the memory that a batch may take; by default a share of what is free.

    Raises:
        OutOfMemoryError: when memory runs out for a single copy.
    """
    states: list[Tensor] = []
    sequences, reads = place.sequences, place.reads
    length, rows_each = max(map(len, sequences)), len(sequences)
    most = max(1, (budget or Budget(model)).forward_rows(length, max(1, _BATCH_TOKENS // length)) // rows_each)

    def run(items: range) -> None:
        batch = changes[items.start : items.stop]
        copy_reads = [(copy * rows_each + row, position) for copy in range(len(batch)) for row, position in reads]
        ys = model.run_to_final_states(sequences * len(batch), hooks(batch), copy_reads)
        states.append(ys.unflatten(0, (len(batch), len(reads))))
        if progress is not None:
            progress(items.stop, len(changes))

    run_in_chunks(len(changes), lambda _: most, run)
    return torch.cat(states)


def rank_agreement(predicted: Sequence[float], actual: Sequence[float]) -> float | None:
    """Spearman's ρ of predicted and actual changes; None for fewer than three, or where all of either are alike."""
    from scipy.stats import spearmanr

    if len(predicted) < 3 or len(set(predicted)) == 1 or len(set(actual)) == 1:
        return None
    result: Any = spearmanr(predicted, actual)
    value = float(result.statistic)
    return value if value == value else None


def disagreement_warnings(spearman: float | None, over: str, interventions: str) -> list[str]:
    """A warning where predicted and actual changes do not agree, over so many components or cells."""
    if spearman is None or spearman >= _AGREE:
        return []
    return [
        f"predicted and actual changes agree with Spearman {spearman:.2f} only over {over}: trust the {interventions}, "
        "not the gradients, here."
    ]


def _row_hooks(rows: Sequence[Component], baselines: Mapping[str, Tensor]) -> Iterator[tuple[str, Hook]]:
    # One hook for each site, which changes all the copies that ablate something there.
    by_site: dict[str, list[tuple[int, int | None]]] = {}
    for copy, component in enumerate(rows):
        by_site.setdefault(component_site(component), []).append((copy, component[1]))

    def hook_for(name: str, changes: list[tuple[int, int | None]]) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            changed, baseline = activation.clone(), baselines[name]
            copies = changed.unflatten(0, (-1, len(baseline)))
            for copy, head in changes:
                if head is None:
                    copies[copy] = baseline
                else:
                    copies[copy, :, :, head] = baseline[:, :, head]
            return changed

        return hook

    for name, changes in by_site.items():
        yield name, hook_for(name, changes)
