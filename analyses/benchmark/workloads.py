"""The cases of the benchmark, in sections whose members are compared with each other.

The limit of a scope is one forward pass of the model's body and one backward pass for the activations alone: no
logits, no hooks, no scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import rivals
from benchmark.measurements import Case, Progress, measure
from benchmark.passages import long_text
from benchmark.results import Section
from benchmark.targets import Target
from lens_scopes.attribution.attribute import attribute, attribute_batch
from lens_scopes.attribution.matrix import attribute_all
from lens_scopes.engine.forward import hooked, run_blocks
from lens_scopes.engine.precision import Products
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.prompts.prompt import read_prompt
from lens_scopes.scopes.objectives import Fisher, Objective, Semantic, Temperature

LIMIT = "body forward and backward (the limit)"
FORWARD = "body forward"
ROUNDED = "bfloat16 products"
LONG = 1024  # tokens from which on memory is what matters
_WHOLE_GRAPH = 4096  # tokens up to which the limit, which holds the graph of every layer, is run
FEW = 8  # captum's steps here; its default of 50 takes six times as long


@dataclass(frozen=True)
class Bench:
    """What every section needs.

    Attributes:
        model: the model explained.
        transformers: the same weights in Transformers, or None to leave rivals out.
        turns: how often each case is timed.
        memory: whether peak memory is measured.
    """

    model: Any
    transformers: Any
    turns: int = 5
    memory: bool = True

    @property
    def device(self) -> str:
        """Where the models are."""
        return str(next(self.model.parameters()).device)

    def measured(
        self,
        name: str,
        title: str,
        unit: str,
        cases: Sequence[Case],
        targets: Sequence[Target],
        progress: Progress | None,
        **settings: Any,
    ) -> Section:
        """The section that measuring the cases gives."""
        found = measure(cases, turns=self.turns, memory=self.memory, device=self.device, progress=progress)
        return Section(name, title, unit, found, list(targets), settings=settings)


def prompt_of(model: Any, tokens: int) -> list[int]:
    """Token ids of a neutral text of that length; of no text where the model has no tokenizer."""
    if model.tokenizer is None:
        return [1 + index * 7 % (model.cfg.d_vocab - 1) for index in range(tokens)]
    ids = list(read_prompt(model, long_text(tokens)).token_ids)
    return ids[:tokens]


def body_pass(model: Any, token_ids: Sequence[int], *, backward: bool) -> Callable[[], Tensor]:
    """One forward pass of a HookedTransformer's blocks and final norm, and one backward pass from the last position
    to the embedding."""
    ids = torch.tensor([token_ids], device=next(model.parameters()).device)

    def run() -> Tensor:
        kept: list[Tensor] = []

        def root(activation: Tensor) -> Tensor:
            kept.append(activation.detach().requires_grad_(backward))
            return kept[0]

        with torch.set_grad_enabled(backward), hooked(model, [(EMBEDDING, root)]):
            residual = run_blocks(model, ids, 0, model.cfg.n_layers)[:, -1]
            y = model.ln_final(residual)[0] if model.cfg.normalization_type is not None else residual[0]
        return torch.autograd.grad(y.norm(), kept)[0] if backward else y

    return run


def scope_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """One prompt: the limit, every scope, and what one would use instead."""
    ids = prompt_of(bench.model, tokens)

    def scope(objective: Objective, **choices: Any) -> Callable[[], Any]:
        return lambda: attribute(bench.model, ids, objective, **choices)

    rank = min(8, bench.model.cfg.d_model)
    cases = [
        Case(FORWARD, body_pass(bench.model, ids, backward=False)),
        Case(LIMIT, body_pass(bench.model, ids, backward=True)),
        Case("Semantic", scope(Semantic())),
        Case("Temperature", scope(Temperature())),
        Case("Temperature, every layer", scope(Temperature(), layers=True)),
        Case("Fisher rank 1", scope(Fisher())),
        Case(f"Fisher rank {rank}", scope(Fisher(rank=rank))),
        Case("Fisher trace", scope(Fisher(rank="trace"))),
        Case(f"Semantic, {ROUNDED}", scope(Semantic(), products="bfloat16")),
        Case(f"Temperature, {ROUNDED}", scope(Temperature(), products="bfloat16")),
        Case(f"Fisher rank 1, {ROUNDED}", scope(Fisher(), products="bfloat16")),
    ]
    if bench.transformers is not None:

        def rival(scope: str, rank: int = 1) -> Callable[[], Any]:
            return lambda: rivals.paper_style(bench.transformers, ids, scope, rank)

        cases += [
            Case("paper-style Semantic", rival("semantic")),
            Case("paper-style Temperature", rival("temperature")),
            Case("paper-style Fisher rank 1", rival("fisher")),
            Case(f"paper-style Fisher rank {rank}", rival("fisher", rank)),
            *rivals.captum_cases(bench.transformers, bench.model.tokenizer, ids, FEW),
        ]
    targets = [
        Target("Semantic", "ratio", 1.1, LIMIT),
        Target("Temperature", "ratio", 1.1, LIMIT),
        Target("Temperature, every layer", "ratio", 1.15, LIMIT),
        Target("Fisher rank 1", "ratio", 1.1, "Temperature"),
        Target(f"Semantic, {ROUNDED}", "ratio", 0.5, LIMIT),
        Target(f"Temperature, {ROUNDED}", "ratio", 0.5, LIMIT),
        Target("Temperature", "speedup", 1.6, "paper-style Temperature"),
        Target("Semantic", "speedup", 2.3, "paper-style Semantic"),
        Target("Fisher rank 1", "speedup", 4.0, "paper-style Fisher rank 1"),
        Target(f"Fisher rank {rank}", "speedup", 1.7, f"paper-style Fisher rank {rank}"),
    ]
    return bench.measured(
        f"scopes-{tokens}", f"One prompt of {len(ids)} tokens", LIMIT, cases, targets, progress, tokens=len(ids)
    )


def long_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """One long prompt, where memory is what matters: the limit holds the whole graph, a scope only what fits."""
    ids = prompt_of(bench.model, tokens)
    cases = [Case("Temperature", lambda: attribute(bench.model, ids, Temperature()))]
    if tokens <= _WHOLE_GRAPH:
        cases.insert(0, Case(LIMIT, body_pass(bench.model, ids, backward=True)))
        cases.append(Case("Fisher rank 1", lambda: attribute(bench.model, ids, Fisher())))
        cases.append(Case("Temperature, in 1 GB", lambda: attribute(bench.model, ids, Temperature(), memory="1GB")))
    targets = [Target("Temperature, in 1 GB", "bytes", 1.1e9)] if tokens <= _WHOLE_GRAPH else []
    return bench.measured(
        f"scopes-{tokens}", f"One prompt of {len(ids)} tokens", cases[0].name, cases, targets, progress, tokens=len(ids)
    )


def batch_section(bench: Bench, passages: Sequence[Any], progress: Progress | None = None) -> Section:
    """Many passages: in batches, one by one, and the paper's way."""
    model, count = bench.model, len(passages)
    prompts = [list(read_prompt(model, passage).token_ids) for passage in passages]
    cases = []
    for objective, scope in ((Temperature(), "temperature"), (Fisher(), "fisher")):
        name = scope.capitalize()
        cases += [
            Case(f"{name}, one by one", _each(model, prompts, objective), items=count),
            Case(f"{name}, attribute_batch", _together(model, prompts, objective), items=count),
            Case(f"{name}, attribute_batch, {ROUNDED}", _together(model, prompts, objective, "bfloat16"), items=count),
        ]
        if bench.transformers is not None:
            cases.append(Case(f"{name}, paper-style loop", _rival(bench.transformers, prompts, scope), items=count))
    targets = [
        Target("Temperature, attribute_batch", "speedup", 1.7, "Temperature, paper-style loop"),
        Target("Fisher, attribute_batch", "speedup", 4.0, "Fisher, paper-style loop"),
        Target(f"Temperature, attribute_batch, {ROUNDED}", "speedup", 3.4, "Temperature, paper-style loop"),
        Target(f"Fisher, attribute_batch, {ROUNDED}", "speedup", 8.0, "Fisher, paper-style loop"),
    ]
    if bench.device.startswith("cuda"):
        targets += [
            Target(f"{name}, attribute_batch", "speedup", 5.0, f"{name}, one by one")
            for name in ("Temperature", "Fisher")
        ]
    tokens = sum(map(len, prompts))
    title = f"{count} passages, {tokens} tokens in all"
    return bench.measured("batch", title, "Temperature, one by one", cases, targets, progress, tokens=tokens)


def precision_section(bench: Bench, passages: Sequence[Any], progress: Progress | None = None) -> Section:
    """What products in bfloat16 leave of the scores: rank correlations over each passage's tokens, BOS left out."""
    from scipy.stats import spearmanr

    found: dict[str, list[float]] = {}
    scopes = (Semantic, Temperature, Fisher)
    for done, passage in enumerate(passages):
        for kind in scopes:
            own = attribute(bench.model, passage, kind())
            target = None if own.target is None else own.target.token_id
            rounded = attribute(bench.model, passage, kind(), target=target, products="bfloat16")
            ordinary = [index for index, special in enumerate(own.special) if not special]
            compared: Any = spearmanr(own.scores[ordinary].numpy(), rounded.scores[ordinary].numpy())
            found.setdefault(kind.scope, []).append(float(compared.statistic))
        if progress is not None:
            progress(done + 1, len(passages))
    figures = {f"Spearman, {scope}, mean": statistics.mean(values) for scope, values in found.items()}
    figures |= {f"Spearman, {scope}, least": min(values) for scope, values in found.items()}
    targets = [Target(name, "figure", 0.999) for name in figures if name.endswith("mean")]
    title = f"{ROUNDED} against float32, {len(passages)} passages"
    return Section("precision", title, "", [], targets, figures, {"passages": len(passages)})


def _each(model: Any, prompts: Sequence[Sequence[int]], objective: Objective) -> Callable[[], Any]:
    return lambda: [attribute(model, ids, objective) for ids in prompts]


def _together(
    model: Any, prompts: Sequence[Sequence[int]], objective: Objective, products: Products = "own"
) -> Callable[[], Any]:
    return lambda: attribute_batch(model, prompts, objective, products=products)


def _rival(transformers: Any, prompts: Sequence[Sequence[int]], scope: str) -> Callable[[], Any]:
    return lambda: [rivals.paper_style(transformers, ids, scope) for ids in prompts]


def matrix_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """Every prediction of a text: the matrix, and separate calls at every position."""
    model = bench.model
    ids = prompt_of(model, tokens)
    cases = [
        Case("attribute_all", lambda: attribute_all(model, ids, Temperature()), items=len(ids)),
        Case(
            "separate calls",
            lambda: [attribute(model, ids, Temperature(), position=at) for at in range(len(ids))],
            items=len(ids),
        ),
    ]
    bound = 0.1 if bench.device.startswith("cuda") else 0.6
    targets = [Target("attribute_all", "ratio", bound, "separate calls")]
    title = f"All {len(ids)} predictions of a text, Temperature"
    return bench.measured("matrix", title, "separate calls", cases, targets, progress, tokens=len(ids))
