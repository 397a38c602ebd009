"""Source × target: the influence of every token on every later prediction of a text, as one [dest, src] matrix.

Destinations are taken in blocks. A block runs one forward pass over the text up to its end, so early destinations do
not pay for late tokens, and its backward passes share that pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.backprop import Trace, trace
from lens_scopes.contract import ContractTerms, attribution_contract
from lens_scopes.errors import PromptError
from lens_scopes.final_state import PredictedToken
from lens_scopes.generation import continuation
from lens_scopes.models import model_record
from lens_scopes.objectives import DirectionFunction, Directions, Objective
from lens_scopes.paths import PathLike
from lens_scopes.precision import Products, products_in
from lens_scopes.prompts import Prompt, PromptLike, extended, next_token_id, read_prompt
from lens_scopes.readouts import Readout
from lens_scopes.scopes import Job, Progress, package_versions
from lens_scopes.shown import Shown
from lens_scopes.sites import EMBEDDING

if TYPE_CHECKING:
    import pandas

_BLOCK = 16  # destinations that share a forward pass


@dataclass(frozen=True, eq=False, repr=False)
class AttributionMatrix(Shown):
    """Influence of every token (columns) on the prediction made after every position (rows).

    Attributes:
        matrix: [dest, src]; zero above the diagonal, where a token comes after the prediction.
        destinations: the positions explained, one a row.
        targets: the token each row's objective is about, where it has one, else None.
        predicted: the model's own top token after each position.
        generated: how many of the last tokens the model generated itself.
        spans: named token ranges [start, stop), from chat messages or given.

    The other attributes are those of Attribution.
    """

    matrix: Float[Tensor, "dest src"]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    tokens: list[str]
    token_ids: list[int]
    special: list[bool]
    text: str | None
    generated: int
    spans: dict[str, tuple[int, int]]
    scope: str
    objective: str
    contract: dict[str, str]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        made = f", {self.generated} generated" if self.generated else ""
        return (
            f"AttributionMatrix({self.objective} on {self.model['name']}, "
            f"{len(self.destinations)} destinations × {len(self.tokens)} sources{made})"
        )

    def span_totals(self, spans: Mapping[str, tuple[int, int]] | None = None) -> pandas.DataFrame:
        """How much each span of the text mattered to each other: scores summed over the sources of one span and
        averaged over the predictions of another.

        A prediction belongs to the span that holds the token it predicts. Tokens in no span are left out, special
        ones (BOS) too.

        Args:
            spans: names → token ranges [start, stop); by default `self.spans`; "generated" is added where it applies.

        Returns:
            One row per target span, one column per source span; NaN where a span predicts nothing.

        Raises:
            PromptError: for no spans at all, or ranges outside the text.
        """
        import pandas

        chosen = dict(self.spans if spans is None else spans)
        if self.generated:
            chosen.setdefault("generated", (len(self.tokens) - self.generated, len(self.tokens)))
        if not chosen:
            raise PromptError("span totals need named spans: give {'name': (start, stop)} in tokens, or a chat prompt.")
        for name, (start, stop) in chosen.items():
            if not 0 <= start < stop <= len(self.tokens):
                raise PromptError(
                    f"span {name!r} is tokens {start} to {stop}, outside the text's 0 to {len(self.tokens)}."
                )
        ordinary = torch.tensor([not special for special in self.special])
        table = {}
        for source, (start, stop) in chosen.items():
            totals = (self.matrix[:, start:stop] * ordinary[start:stop].to(self.matrix)).sum(1)
            column = []
            for first, last in chosen.values():
                rows = [row for row, dest in enumerate(self.destinations) if first <= dest + 1 < last]
                column.append(float(totals[rows].mean()) if rows else float("nan"))
            table[source] = column
        return pandas.DataFrame(table, index=pandas.Index(list(chosen), name="target \\ source"))

    def to_pandas(self) -> pandas.DataFrame:
        """The matrix with tokens as labels, one row per destination."""
        import pandas

        rows = [f"{dest}: {self.tokens[dest]}" for dest in self.destinations]
        columns = [f"{index}: {token}" for index, token in enumerate(self.tokens)]
        return pandas.DataFrame(self.matrix.numpy(), index=rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {**asdict(self), "matrix": self.matrix.tolist()}


def attribute_all(
    model: Any,
    prompt: PromptLike,
    objective: Objective | str | DirectionFunction | None = None,
    *,
    generate: int = 0,
    spans: Mapping[str, str | tuple[int, int]] | None = None,
    through: PathLike = None,
    readout: Readout | str = "norm",
    products: Products = "own",
    progress: Progress | None = None,
) -> AttributionMatrix:
    """The influence of every token on every later prediction of a text.

    Row d holds the scores that `attribute(..., position=d)` gives; the target of a row is the token that follows it
    in the text.

    Args:
        model, prompt, objective, through, readout, products: as for `attribute`.
        generate: tokens for the model to add first, each its most probable one; only the predictions of those are
            explained then.
        spans: named parts of the prompt, as text or character ranges, for `span_totals`; chat messages are named by
            themselves.
        progress: called with (destinations done, destinations in all).

    Raises:
        LensScopesError: as `attribute`; PromptError when the generated text would not fit the context window.
    """
    job = Job.read(model, objective, False, (), through, readout, products=products)
    read = read_prompt(model, prompt, spans=spans)
    first = 0
    if generate:
        first = len(read.token_ids) - 1
        read = _extended(model, read, generate)
    length = len(read.token_ids)
    destinations = list(range(first, length - 1)) if generate else list(range(length))
    path_hooks = [] if job.path is None else job.path.hooks(model)
    matrix, targets, predicted, counts = [], [], [], []
    for block in _blocks(destinations):
        ids = read.token_ids[: block[-1] + 1]
        with products_in(job.products):
            traced = trace(model, [ids], [], path_hooks, reads=[(0, dest) for dest in block])
        states = job.final_states(traced, [next_token_id(read, dest) for dest in block])
        with torch.no_grad():
            directions = [job.objective.directions(state) for state in states]
        for index, state in enumerate(states):
            last = index + 1 == len(states)
            row = _row(traced, index, directions[index], job.readout, keep_graph=not last)
            matrix.append(torch.nn.functional.pad(row, (0, length - len(row))))
            targets.append(job.predicted_target(state))
            predicted.append(job.prediction(state).top[0])
            counts.append(len(directions[index].vectors))
            if progress is not None:
                progress(len(matrix), len(destinations))
    return AttributionMatrix(
        matrix=torch.stack(matrix),
        destinations=destinations,
        targets=targets,
        predicted=predicted,
        tokens=list(read.tokens),
        token_ids=list(read.token_ids),
        special=list(read.special),
        text=read.text,
        generated=generate,
        spans=dict(read.spans),
        scope=job.objective.scope,
        objective=type(job.objective).__name__,
        contract=attribution_contract(
            ContractTerms(
                output=f"{job.objective.output}, at each of {len(destinations)} positions",
                position=destinations[-1],
                n_tokens=length,
                sites=[],
                path=None if job.path is None else str(job.path),
                equation=job.objective.equation,
                readout=job.readout,
                n_directions=max(counts),
                squared=directions[-1].squared,
                sampled=directions[-1].sampled,
            )
        ),
        model=asdict(model_record(model)),
        settings={
            "objective": {"scope": job.objective.scope, **job.objective.settings()},
            "readout": job.readout.name,
            "path": None if job.path is None else str(job.path),
            "generated": generate,
            "products": job.products,
        },
        versions=package_versions(),
    )


def _blocks(destinations: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(destinations), _BLOCK):
        yield destinations[start : start + _BLOCK]


def _row(
    traced: Trace, index: int, directions: Directions, readout: Readout, keep_graph: bool
) -> Float[Tensor, " src"]:
    """The scores of one destination: its directions through the graph that the block shares."""
    total: Tensor | None = None
    for order, (vector, weight) in enumerate(zip(directions.vectors, directions.weights, strict=True)):
        vectors = torch.zeros_like(traced.final_states)
        vectors[index] = vector.to(vectors)
        more = keep_graph or order + 1 < len(directions.vectors)
        gradient = traced.gradients(vectors, keep_graph=more)[EMBEDDING]
        amplitude = readout.amplitude(gradient, traced.activations[EMBEDDING].detach(), traced.real)[0]
        weight = weight.to(amplitude)
        term = weight * amplitude**2 if directions.squared else weight.sqrt() * amplitude
        total = term if total is None else total + term
    assert total is not None  # an objective has at least one direction
    return total.cpu()


def _extended(model: Any, prompt: Prompt, count: int) -> Prompt:
    """The prompt with the model's own most probable continuation."""
    length = len(prompt.token_ids)
    if count < 0:
        raise PromptError(f"the number of tokens to generate must be non-negative; got {count}.")
    if length + count > model.cfg.n_ctx:
        raise PromptError(
            f"{count} generated tokens after a prompt of {length} exceed the context window of {model.cfg.n_ctx}; "
            "shorten the prompt or generate fewer."
        )
    return extended(model, prompt, continuation(model, prompt.token_ids, count))
