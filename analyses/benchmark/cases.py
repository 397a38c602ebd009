"""The cases of the benchmark, in sections whose members are compared with each other.

The lower bound of a scope is one forward and one backward pass of the model's body in Transformers with fused
attention, without logits, hooks or scores. The same passes of TransformerLens' body are the second yardstick.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import competitors
from benchmark.goals import Goal
from benchmark.measurements import Case, Progress, clock_name, measure
from benchmark.passages import long_text, natural_text
from benchmark.results import Section
from lens_scopes.attribution.attribute import attribute, attribute_batch
from lens_scopes.attribution.matrix import attribute_all
from lens_scopes.engine.memory import Budget
from lens_scopes.engine.model import MatmulDtype, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import OutOfMemoryError
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes.objectives import Fisher, Objective, Semantic, Temperature
from lens_scopes.scopes.points import StraightPath
from lens_scopes.scopes.spec import FisherAtValues, Spec

LOWER_BOUND = "Transformers body (lower bound)"
LENS_BODY = "TransformerLens body"
LENS_FORWARD = "TransformerLens body, forward only"
BFLOAT16 = "bfloat16 products"
STEPS = 4  # of Integrated Gradients, here and in captum; captum's default of 50 takes 12 times as long


@dataclass(frozen=True)
class Bench:
    """What every section needs.

    Attributes:
        model: the model that is explained.
        transformers: the same weights in Transformers; None leaves competitors and the lower bound out.
        rounds: number of times that each case is timed.
    """

    model: Any
    transformers: Any
    rounds: int = 3

    @property
    def device(self) -> str:
        """Where the models are."""
        return str(next(self.model.parameters()).device)

    def section(
        self,
        name: str,
        title: str,
        yardsticks: Sequence[str],
        cases: Sequence[Case],
        goals: Sequence[Goal],
        progress: Progress | None,
        tokens: int,
    ) -> Section:
        """Measures the cases."""
        measurements = measure(cases, rounds=self.rounds, device=self.device, progress=progress)
        settings = {"tokens": tokens, "rounds": self.rounds, "clock": clock_name(self.device)}
        return Section(name, title, yardsticks, measurements, goals, settings=settings)


def has_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 are computed rather than emulated there."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def generated_prompt(model: Any, tokens: int) -> list[int]:
    """Token ids of a generated story of that length, or arbitrary ids if the model has no tokenizer."""
    if model.tokenizer is None:
        return [1 + index * 7 % (model.cfg.d_vocab - 1) for index in range(tokens)]
    return list(read_prompt(model, long_text(tokens)).token_ids)[:tokens]


def lens_body(model: Any, token_ids: Sequence[int], *, backward: bool) -> Callable[[], Tensor]:
    """One forward pass of a HookedTransformer's blocks and final norm; with `backward` also one backward pass from
    the last position to the embedding."""
    ids = torch.tensor([token_ids], device=next(model.parameters()).device)

    def run() -> Tensor:
        roots: list[Tensor] = []

        def cut_at_embedding(activation: Tensor) -> Tensor:
            roots.append(activation.detach().requires_grad_(backward))
            return roots[0]

        with torch.set_grad_enabled(backward), ScopedModel.of(model).hooked([(EMBEDDING, cut_at_embedding)]):
            residual = model(ids, stop_at_layer=model.cfg.n_layers, padding_side="right")[:, -1]
            y = model.ln_final(residual)[0] if model.cfg.normalization_type is not None else residual[0]
        return torch.autograd.grad(y.norm(), roots)[0] if backward else y

    return run


def prompt_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """One prompt: yardsticks, every scope, and the same scores by competitors."""
    ids = generated_prompt(bench.model, tokens)
    rank = min(8, bench.model.cfg.d_model)
    cases = _prompt_cases(bench, ids, rank)
    yardsticks = [LENS_BODY] if bench.transformers is None else [LOWER_BOUND, LENS_BODY]
    goals = [
        Goal("Semantic", "ratio", 1.1, yardsticks[0]),
        Goal("Temperature", "ratio", 1.1, yardsticks[0]),
        Goal("Temperature, every layer", "ratio", 1.15, yardsticks[0]),
        Goal("Fisher rank 1", "ratio", 1.1, "Temperature"),
        Goal(f"Temperature, {BFLOAT16}", "ratio", 0.5, yardsticks[0]),
    ]
    if bench.transformers is not None:
        goals += [
            Goal("Semantic", "speedup", 2.3, "Semantic, reference"),
            Goal("Temperature", "speedup", 1.6, "Temperature, reference"),
            Goal("Fisher rank 1", "speedup", 4.0, "Fisher rank 1, reference"),
            Goal(f"Fisher rank {rank}", "speedup", 1.7, f"Fisher rank {rank}, reference"),
        ]
    title = f"One prompt of {len(ids)} tokens"
    return bench.section(f"prompt-{tokens}", title, yardsticks, cases, goals, progress, len(ids))


def _prompt_cases(bench: Bench, ids: Sequence[int], rank: int) -> list[Case]:
    model, transformers = bench.model, bench.transformers

    def own(name: str, objective: Objective | Spec, note: str = "", **choices: Any) -> Case:
        return Case(name, lambda: attribute(model, ids, objective, **choices), note=note)

    def competing(scope: competitors.Scope, name: str, rank: int = 1) -> list[Case]:
        if transformers is None:
            return []
        return [
            Case(
                f"{name}, plain Transformers",
                lambda: competitors.plain_scores(transformers, ids, scope, rank),
                "competitor",
            ),
            Case(
                f"{name}, reference",
                lambda: competitors.reference_scores(transformers, ids, scope, rank),
                "competitor",
            ),
        ]

    def rounded(name: str, objective: Objective) -> Case:
        if not has_bfloat16(bench.device):
            return Case(f"{name}, {BFLOAT16}", None, note="this processor has no bfloat16 instructions")
        return own(f"{name}, {BFLOAT16}", objective, matmul_dtype="bfloat16")

    steps = StraightPath("zero", STEPS)
    return [
        *(
            []
            if transformers is None
            else [Case(LOWER_BOUND, lambda: competitors.body_scores(transformers, ids), "body")]
        ),
        Case(LENS_BODY, lens_body(model, ids, backward=True), "body"),
        Case(LENS_FORWARD, lens_body(model, ids, backward=False), "body"),
        own("Semantic", Semantic()),
        *competing("semantic", "Semantic"),
        own("Temperature", Temperature()),
        own("Temperature, every layer", Temperature(), layers=True),
        rounded("Temperature", Temperature()),
        *competing("temperature", "Temperature"),
        own("Fisher rank 1", Fisher()),
        own("FisherAtValues", FisherAtValues()),
        rounded("Fisher rank 1", Fisher()),
        *competing("fisher", "Fisher rank 1"),
        own(f"Fisher rank {rank}", Fisher(rank=rank)),
        *competing("fisher", f"Fisher rank {rank}", rank),
        own(f"Integrated Gradients, {STEPS} steps", Semantic(), "from zero embeddings", points=steps, readout="dot"),
        *([] if transformers is None else competitors.captum_cases(transformers, model.tokenizer, ids, STEPS)),
    ]


def long_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """One long prompt of natural text, where memory matters: the lower bound, and one scope with every layer's scores,
    whole where that fits and one layer at a time."""
    model = bench.model
    # A model without a tokenizer is measured on the ids that the other sections take.
    natural = model.tokenizer is not None
    ids = model.to_tokens(natural_text())[0, :tokens].tolist() if natural else generated_prompt(model, tokens)
    fits = Budget(ScopedModel.of(model), sites=model.cfg.n_layers).plan(len(ids))
    every, least = "Temperature, every layer", _least_memory(model, len(ids))

    def own(name: str, **choices: Any) -> Case:
        return Case(name, lambda: attribute(model, ids, Temperature(), layers=True, **choices))

    cases = [] if fits.sliced else [own(every)]
    cases.append(own(f"{every}, one layer at a time", memory=least))
    if has_bfloat16(bench.device):
        cases += [] if fits.sliced else [own(f"{every}, {BFLOAT16}", matmul_dtype="bfloat16")]
        cases.append(own(f"{every}, one layer at a time, {BFLOAT16}", memory=least, matmul_dtype="bfloat16"))
    # At the whole window of Gemma the body's own graph does not fit, and its attention takes longer than all the rest.
    if bench.transformers is not None and not fits.sliced:
        cases.insert(0, Case(LOWER_BOUND, lambda: competitors.body_scores(bench.transformers, ids), "body"))
    bound = {512: 1.0, 1024: 1.05, 2048: 0.75, 8192: 0.6}.get(tokens)
    rounded_bound = {512: 0.55, 2048: 0.4, 8192: 0.3}.get(tokens)
    goals = [] if bound is None else [Goal(every, "ratio", bound, LOWER_BOUND)]
    goals += [] if rounded_bound is None else [Goal(f"{every}, {BFLOAT16}", "ratio", rounded_bound, LOWER_BOUND)]
    goals += [Goal(every, "memory", 1.2, LOWER_BOUND)] if tokens == 1024 else []
    most = {8192: 1.4e9, 32768: 5e9}.get(tokens)
    goals += [] if most is None else [Goal(f"{every}, one layer at a time", "bytes", most)]
    title = f"One prompt of {len(ids)} tokens of natural text"
    return bench.section(f"long-{tokens}", title, [cases[0].name], cases, goals, progress, len(ids))


def _least_memory(model: Any, length: int) -> int:
    """The least that a scope with every layer's scores can be given, to two per cent."""
    scoped, amount = ScopedModel.of(model), 10**8
    while True:
        try:
            Budget(scoped, amount, sites=scoped.n_layers).plan(length)
            return amount
        except OutOfMemoryError:
            amount = int(1.02 * amount)


def batch_section(bench: Bench, passages: Sequence[Any], progress: Progress | None = None) -> Section:
    """Many passages: in batches, one by one, and one by one in competitors."""
    model, count = bench.model, len(passages)
    prompts = [list(read_prompt(model, passage).token_ids) for passage in passages]
    cases: list[Case] = []
    scopes: list[tuple[str, Objective, competitors.Scope]] = [
        ("Temperature", Temperature(), "temperature"),
        ("Fisher rank 1", Fisher(), "fisher"),
    ]
    for name, objective, scope in scopes:
        cases += [
            Case(f"{name}, one by one", _one_by_one(model, prompts, objective), items=count),
            Case(f"{name}, batches", _in_batches(model, prompts, objective, None), items=count),
            Case(
                f"{name}, batches, {BFLOAT16}",
                _in_batches(model, prompts, objective, "bfloat16") if has_bfloat16(bench.device) else None,
                items=count,
            ),
        ]
        if bench.transformers is not None:
            cases += [
                Case(
                    f"{name}, {label}", _competing(scores, bench.transformers, prompts, scope), "competitor", "", count
                )
                for label, scores in (
                    ("plain Transformers", competitors.plain_scores),
                    ("reference", competitors.reference_scores),
                )
            ]
    goals = [
        Goal("Temperature, batches", "speedup", 1.7, "Temperature, reference"),
        Goal("Fisher rank 1, batches", "speedup", 4.0, "Fisher rank 1, reference"),
        Goal(f"Temperature, batches, {BFLOAT16}", "speedup", 3.4, "Temperature, reference"),
        Goal(f"Fisher rank 1, batches, {BFLOAT16}", "speedup", 8.0, "Fisher rank 1, reference"),
    ]
    if bench.device.startswith("cuda"):
        goals += [Goal(f"{name}, batches", "speedup", 5.0, f"{name}, one by one") for name, _, _ in scopes]
    tokens = sum(map(len, prompts))
    title = f"{count} passages, {tokens} tokens together"
    return bench.section("batch", title, ["Temperature, one by one"], cases, goals, progress, tokens)


def _one_by_one(model: Any, prompts: Sequence[Sequence[int]], objective: Objective) -> Callable[[], Any]:
    return lambda: [attribute(model, ids, objective) for ids in prompts]


def _in_batches(
    model: Any, prompts: Sequence[Sequence[int]], objective: Objective, matmul_dtype: MatmulDtype
) -> Callable[[], Any]:
    return lambda: attribute_batch(model, prompts, objective, matmul_dtype=matmul_dtype)


def _competing(
    scores: Callable[..., Tensor], transformers: Any, prompts: Sequence[Sequence[int]], scope: competitors.Scope
) -> Callable[[], Any]:
    return lambda: [scores(transformers, ids, scope) for ids in prompts]


def matrix_section(bench: Bench, tokens: int, progress: Progress | None = None) -> Section:
    """Every prediction of a text: the whole matrix at once, and one call per position."""
    model = bench.model
    ids = generated_prompt(model, tokens)
    cases = [
        Case(
            "one call per position",
            lambda: [attribute(model, ids, Temperature(), position=at) for at in range(len(ids))],
            items=len(ids),
        ),
        Case("attribute_all", lambda: attribute_all(model, ids, Temperature()), items=len(ids)),
    ]
    bound = 0.1 if bench.device.startswith("cuda") else 0.6
    goals = [Goal("attribute_all", "ratio", bound, cases[0].name)]
    title = f"Temperature at all {len(ids)} positions of a text"
    return bench.section("matrix", title, [cases[0].name], cases, goals, progress, len(ids))


def precision_section(bench: Bench, passages: Sequence[Any], progress: Progress | None = None) -> Section:
    """Rank correlations of scores with bfloat16 products and in float32, over the ordinary tokens of each passage."""
    from scipy.stats import spearmanr

    correlations: dict[str, list[float]] = {}
    for index, passage in enumerate(passages):
        for objective in (Semantic(), Temperature(), Fisher()):
            exact = attribute(bench.model, passage, objective)
            target = None if exact.target is None else exact.target.token_id
            rounded = attribute(bench.model, passage, objective, target=target, matmul_dtype="bfloat16")
            ordinary = [at for at, special in enumerate(exact.special) if not special]
            correlation: Any = spearmanr(exact.scores[ordinary].numpy(), rounded.scores[ordinary].numpy())
            correlations.setdefault(objective.scope, []).append(float(correlation.statistic))
        if progress is not None:
            progress(index + 1, len(passages))
    means = {f"Spearman, {scope}, mean": statistics.mean(values) for scope, values in correlations.items()}
    least = {f"Spearman, {scope}, least": min(values) for scope, values in correlations.items()}
    goals = [Goal(name, "number", 0.999) for name in means]
    title = f"{BFLOAT16} against float32, {len(passages)} passages"
    return Section("precision", title, [], [], goals, means | least, {"passages": len(passages)})
