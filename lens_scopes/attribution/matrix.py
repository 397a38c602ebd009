"""Source × target: the influence of every token on every later prediction of a text, as one [dest, src] matrix.

Destinations are taken in blocks. A block runs one forward pass over the text up to its end, so early destinations do
not pay for late tokens, and its backward passes share that pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.attribution.provenance import readout_record, record_alterations
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, SlicedTrace, trace_within
from lens_scopes.engine.final_state import FinalState, PredictedToken
from lens_scopes.engine.memory import MemoryPlan, run_in_chunks
from lens_scopes.engine.model import MatmulDtype, ModelLike, one_at_a_time
from lens_scopes.engine.scoring import Directions, check_gradients
from lens_scopes.engine.token_ablation import text_mask
from lens_scopes.errors import ObjectiveError, PromptError, whole_number
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.answer import Answer, AnswerLike, one_answer, read_answer
from lens_scopes.prompts.prompt import Prompt, next_token_id
from lens_scopes.prompts.read import PromptLike, extended, read_prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.prompts.tokens import resolve_token
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.scopes.contract import ContractTerms, answer_process, attribution_contract
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.readouts import Readout
from lens_scopes.scopes.spec import ObjectiveLike, Spec

_BLOCK = 16  # destinations that share a forward pass


@one_at_a_time
@record_alterations
def attribute_all(
    model: ModelLike,
    prompt: PromptLike,
    objective: ObjectiveLike = None,
    *,
    target: str | int | None = None,
    answer: AnswerLike | None = None,
    generate: int = 0,
    spans: Mapping[str, SpanLike] | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> AttributionMatrix:
    """The influence of every token on every later prediction of a text.

    Row d holds the scores that `attribute(..., position=d)` gives. Comparison methods, which take one run of the model
    per token, and points, which take one per row and point, are left to that call; `layers`, `sites` and `score_site`
    would make each entry a vector. What an objective draws has a `seed` of its own.

    Args:
        model, prompt, objective, through, readout, memory, matmul_dtype: as for `attribute`.
        target: the next token that every row explains, for objectives that take one and name none; by default the token
            that follows each row in the text, and at its end the model's own top token.
        answer: a text, token ids, or a number of tokens for the model to generate, put after the prompt; only the
            predictions of its tokens are explained then, each in a row of its own. With a readout that adds up ("dot"
            for a number, any for a divergence) the rows' sum is what `attribute` gives with the same answer.
        generate: the same as a number in `answer`.
        spans: named parts of the prompt, for `span_totals`: a part of the text, `Chars(start, stop)`, or (start, stop)
            in tokens; chat messages are named by themselves.
        progress: called with (destinations done, destinations in all).

    Returns:
        An AttributionMatrix [dest, src] in the units of the objective's score.

    Raises:
        LensScopesError: as `attribute`; PromptError when the answer would not fit the context window; ObjectiveError
            for `LogProbDiff`, which contrasts two whole answers.

    Example:
        >>> matrix = ls.attribute_all(model, "The capital of France is", ls.Fisher())
        >>> matrix.matrix.shape, float(matrix.matrix[1, 2])  # a later token has no influence
        (torch.Size([6, 6]), 0.0)
    """
    # What is asked, checked with the model.
    generate = whole_number(generate, "the number of tokens to generate", PromptError)
    spec = Spec.read(
        objective, target=target, through=through, readout=readout, memory=memory, matmul_dtype=matmul_dtype
    )
    spec = spec.require_gradient().require_usual(
        ("layers", "sites", "score_site", "points", "eligible"), "a matrix is read at the embedding, of all tokens"
    )
    if spec.objective.contrasted:
        raise ObjectiveError(
            "LogProbDiff contrasts two whole answers, and a matrix explains predictions one by one; ask for LogProb() "
            "with each answer."
        )
    answer_like, spec = (
        one_answer(spec.answer if answer is None else answer, generate or None),
        spec.replace(answer=None),
    )
    resolved = ResolvedSpec.of(model, spec)
    scoped = resolved.model

    # The text with its answer, the predictions to explain, and the other prompt beside it.
    text = read_prompt(scoped, prompt, spans=spans)
    n_prompt = len(text)
    other = resolved.readout.other_prompt
    other = None if other is None else read_aligned(scoped, text, other, n_prompt)
    resolved_answer = None if answer_like is None else read_answer(scoped, text, answer_like)
    destinations = list(range(len(text)))
    if resolved_answer is not None:
        text, destinations = resolved_answer.prompt, list(range(n_prompt - 1, len(resolved_answer.prompt) - 1))
        other = None if other is None else extended(scoped, other, resolved_answer.token_ids)

    # Blocks of destinations, each with one forward pass.
    start = None if other is None else scoped.token_embeddings(other.token_ids)
    rows = _Rows(resolved, text, None if spec.target is None else resolve_token(scoped, spec.target), start, n_prompt)

    def run(items: range) -> None:
        rows.run(destinations[items.start : items.stop])
        if progress is not None:
            progress(items.stop, len(destinations))

    run_in_chunks(len(destinations), lambda _: _BLOCK, run)
    assert rows.last_state is not None

    # The result, with everything that says what its rows are.
    squared = rows.directions[-1].squared
    record = resolved.record(text, destinations[-1], rows.last_state, whole=True)
    record["objective"] = type(resolved.objective).__name__  # each row has a target of its own
    return AttributionMatrix(
        matrix=torch.stack(rows.scores),
        destinations=destinations,
        targets=rows.targets,
        predicted=rows.predicted,
        answer=0 if resolved_answer is None else len(resolved_answer),
        generated=len(resolved_answer) if resolved_answer is not None and resolved_answer.generated else 0,
        spans=dict(text.spans),
        **record,
        contract=_contract(resolved, destinations, len(text), rows.directions, resolved_answer),
        settings=resolved.settings(
            destinations[-1],
            readout=readout_record(resolved.readout, other, len(text)),
            answer_tokens=0 if resolved_answer is None else len(resolved_answer),
            matmul_dtype=scoped.matmul_dtype,
            divergence=squared,
        ),
        memory=rows.memory,
        warnings=_direction_warnings(rows.directions, destinations),
    )


@dataclass
class _Rows:
    """The rows of the matrix, computed a block at a time.

    Of the final states the last alone is kept: each holds logits of the whole vocabulary.

    Attributes:
        target: the token that every row explains; by default the one that follows in the text.
        start: the embeddings of the other prompt that the readout measures from, if it does.
        n_prompt: how many of the first tokens are the prompt's, whose mean is the baseline "mean".
        scores: of all tokens of the text, zero after the row's destination.
        memory: the plan of the last block, which is that of the longest part of the text.
    """

    resolved: ResolvedSpec
    text: Prompt
    target: int | None
    start: Float[Tensor, "pos d_model"] | None
    n_prompt: int
    scores: list[Float[Tensor, " src"]] = field(default_factory=list)
    targets: list[PredictedToken | None] = field(default_factory=list)
    predicted: list[PredictedToken] = field(default_factory=list)
    directions: list[Directions] = field(default_factory=list)
    last_state: FinalState | None = None
    memory: MemoryPlan | None = None

    def run(self, destinations: Sequence[int]) -> None:
        """Runs the text up to the last of some destinations, and back from each of them."""
        resolved, length = self.resolved, destinations[-1] + 1
        ids = self.text.token_ids[:length]
        plan = resolved.budget().plan(length)
        reads = [(0, dest) for dest in destinations]
        graph = trace_within(resolved.model, [ids], [], plan, resolved.path_hooks(), reads)
        with torch.no_grad():
            tokens = [next_token_id(self.text, dest) if self.target is None else self.target for dest in destinations]
            states = resolved.final_states(graph, tokens)
            directions = [resolved.objective.directions(state) for state in states]
            targets = [resolved.predicted_target(state) for state in states]
            predicted = [resolved.prediction(state).top[0] for state in states]
        start = None if self.start is None else self.start[:length]
        # A destination's "mean" is over the prompt's tokens that it sees.
        specials = [self.text.special[: min(dest + 1, self.n_prompt)] for dest in destinations]
        mask = text_mask(specials)
        mask = torch.nn.functional.pad(mask, (0, length - mask.shape[1]))
        scores = _scores(graph, directions, resolved.readout, mask, start)
        # Nothing is kept before everything is computed: where memory runs out the block is run again.
        self.scores += [torch.nn.functional.pad(row, (0, len(self.text) - length)) for row in scores]
        self.targets += targets
        self.predicted += predicted
        self.directions += directions
        self.last_state = states[-1]
        self.memory = graph.outcome(plan, sum(len(item.vectors) for item in directions))


def _contract(
    resolved: ResolvedSpec,
    destinations: Sequence[int],
    n_tokens: int,
    directions: Sequence[Directions],
    answer: Answer | None,
) -> dict[str, str]:
    of_answer = "" if answer is None else f", those before the answer's tokens {answer.text!r}"
    terms = attribution_contract(
        ContractTerms(
            output=f"{resolved.objective.output}, at each of {len(destinations)} positions{of_answer}",
            position=destinations[-1],
            n_tokens=n_tokens,
            sites=[],
            path=None if resolved.path is None else resolved.path.held,
            equation=resolved.objective.equation,
            readout=resolved.readout,
            n_directions=max(len(item.vectors) for item in directions),
            squared=directions[-1].squared,
            sampled=directions[-1].sampled,
            routed=resolved.model.has_experts,
        )
    )
    if answer is not None:
        terms["generative process"] = f"{answer_process([answer])}; {terms['generative process']}"
    return terms


def _direction_warnings(directions: Sequence[Directions], destinations: Sequence[int]) -> list[str]:
    """One sentence on the predictions whose directions carry a warning, with the first of them in full."""
    warned = [(dest, item.warnings[0]) for dest, item in zip(destinations, directions, strict=True) if item.warnings]
    if not warned:
        return []
    position, warning = warned[0]
    return [f"{len(warned)} of {len(destinations)} predictions, first after position {position}: {warning}"]


def _scores(
    graph: SlicedTrace,
    directions: Sequence[Directions],
    readout: Readout,
    masks: Bool[Tensor, "dest pos"],
    start: Float[Tensor, "pos d_model"] | None,
) -> list[Float[Tensor, " src"]]:
    """The scores of each destination: its directions through the graph that the block shares."""
    # A direction is zero at every final state but its own destination's, so no row gets gradient from another one.
    owners = [row for row, item in enumerate(directions) for _ in item.vectors]
    weights = torch.cat([item.weights for item in directions])
    vectors = torch.zeros(len(owners), *graph.final_states.shape).to(graph.final_states)
    for index, vector in enumerate(torch.cat([item.vectors for item in directions])):
        vectors[index, owners[index]] = vector.to(vectors)
    totals: dict[int, Tensor] = {}

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        row, mask = owners[index], masks.to(activation.device)
        baseline = readout.baseline_values(activation, mask[row : row + 1]) if start is None else start
        amplitude = readout.amplitude(gradient, activation, baseline)[0]
        check_gradients(amplitude, name, gradient.dtype)
        weight = weights[index].to(amplitude)
        term = weight * amplitude**2 if directions[row].squared else weight.sqrt() * amplitude
        totals[row] = totals[row] + term if row in totals else term

    graph.backward(vectors, visit)
    return [totals[row].cpu() for row in range(len(directions))]
