"""What is asked, resolved with a model: sites, path and objective checked once, then run on any number of prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.attribution.averaging import average_over_points
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.provenance import choice_record, package_versions, readout_record, score_warnings
from lens_scopes.engine.backward import (
    GradientSource,
    Progress,
    SlicedTrace,
    Trace,
    read_activations,
    trace,
    trace_within,
)
from lens_scopes.engine.final_state import FinalState, PredictedToken, Prediction, Unembedding, compute_dtype
from lens_scopes.engine.memory import Budget, MemoryPlan, PeakGauge, run_in_chunks
from lens_scopes.engine.model import Hook, ModelLike, ScopedModel
from lens_scopes.engine.model.alterations import require_adapters
from lens_scopes.engine.model.checks import require_gradients, require_live_hooks
from lens_scopes.engine.scoring import Amplitude, Directions, SiteScores, score, total_over_sites
from lens_scopes.engine.sites import EMBEDDING, layer_sites, resolve_sites
from lens_scopes.engine.token_ablation import text_mask
from lens_scopes.errors import LensScopesError, NumericsError, ObjectiveError, SiteError
from lens_scopes.models.load import model_record
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.tokens import token_string
from lens_scopes.results.attribution import Attribution, DirectionDetails, LensReading
from lens_scopes.results.storage.record import plain
from lens_scopes.scopes.contract import ContractTerms, attribution_contract
from lens_scopes.scopes.lens import Lens, read_cells
from lens_scopes.scopes.objectives import Explanation, Objective
from lens_scopes.scopes.objectives.base import contrast
from lens_scopes.scopes.paths import Path
from lens_scopes.scopes.points import Points
from lens_scopes.scopes.readouts import Readout
from lens_scopes.scopes.spec import Spec

_TOP_TOKENS = 10
_BATCH_TOKENS = 512  # padded tokens in one forward pass of attribute_batch: beyond, a processor's caches overflow
_BATCH_TOKENS_OF_GPU = 8192


def _batch_tokens(model: ScopedModel) -> int:
    return _BATCH_TOKENS if model.device.type == "cpu" else _BATCH_TOKENS_OF_GPU


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec, checked against the model and ready to run."""

    model: ScopedModel
    spec: Spec
    unembedding: Unembedding
    explanation: Explanation
    layer_names: list[str]
    site_names: list[str]
    score_names: list[str]

    @classmethod
    def of(cls, model: ModelLike, spec: Spec, *, takes_answers: bool = False) -> ResolvedSpec:
        """Resolves names and tokens with the model, once, at the boundary.

        Args:
            takes_answers: whether the caller explains whole answers.

        Raises:
            LensScopesError: where the model lacks what the spec names.
        """
        if spec.answers and not takes_answers:
            raise ObjectiveError(
                "whole answers are explained by attribute, attribute_batch and inspect_heads; leave the answer out."
            )
        spec.objective.check_answer(spec.answer is not None)
        model = ScopedModel.of(model).with_matmul_dtype(spec.matmul_dtype)
        unembedding = model.unembedding()
        # Each of these runs a few tokens, once a model: what they refuse would give wrong numbers without a word.
        require_gradients(model)
        require_adapters(model)
        layer_names, site_names = layer_sites(model, spec.layers or False), resolve_sites(model, spec.sites)
        score_names = resolve_sites(model, spec.score_site)
        require_live_hooks(model, [*layer_names, *site_names, *score_names], SiteError)
        if spec.lens is not None:
            spec.lens.prepare(model, layer_names)
        return cls(
            model=model,
            spec=spec,
            unembedding=unembedding,
            explanation=spec.objective.prepare(model),
            layer_names=layer_names,
            site_names=site_names,
            score_names=score_names,
        )

    @property
    def objective(self) -> Objective:
        """The objective, for specs that take a gradient."""
        assert isinstance(self.explanation, Objective)
        return self.explanation

    @property
    def at_embedding(self) -> bool:
        """Whether the tokens' scores are read at the embedding."""
        return self.score_names == [EMBEDDING]

    @property
    def path(self) -> Path | None:
        """What carries gradient."""
        return self.spec.through

    @property
    def readout(self) -> Readout:
        """How a gradient becomes a score."""
        return self.spec.readout

    @property
    def points(self) -> Points | None:
        """Where gradients are taken."""
        return self.spec.points

    @property
    def read_names(self) -> list[str]:
        """All sites where gradients are read, besides the embedding."""
        names = dict.fromkeys([*self.layer_names, *self.site_names, *self.score_names])
        return [name for name in names if name != EMBEDDING]

    def budget(self) -> Budget:
        """What the work may use beyond the model's weights, by what is free now."""
        hook_names = [name for name, _ in self.path_hooks()]
        return Budget(self.model, self.spec.memory, hook_names, len(self.read_names))

    def path_hooks(self) -> list[tuple[str, Hook]]:
        """The hooks that hold fixed what the path leaves out."""
        return [] if self.path is None else self.path.hooks(self.model)

    def run_all(
        self, places: Sequence[PromptPosition], progress: Progress | None, on_results: Progress | None = None
    ) -> list[Attribution]:
        """One result a place, in their order; those of similar length run together, as many as memory holds.

        Args:
            progress: called with (directions done, directions in all) of each batch.
            on_results: called with (prompts done, prompts in all).
        """
        lengths = [max(map(len, place.sequences)) for place in places]
        # The longest first: rows of a batch are padded little, and what does not fit shows at once.
        order = sorted(range(len(places)), key=lambda row: -lengths[row])
        results: dict[int, Attribution] = {}
        budget, most = self.budget(), _batch_tokens(self.model)

        def at_once(start: int) -> int:
            longest, limit = lengths[order[start]], self.model.long_from
            if limit is None or longest < limit:
                return budget.rows(longest, max(1, most // longest))
            # Rows beyond `long_from` are rotated in another way, so a batch of them ends where they do.
            n_long = sum(length >= limit for length in lengths) - start
            return min(n_long, budget.rows(longest, max(1, most // longest)))

        def run(items: range) -> None:
            rows = [order[item] for item in items]
            results.update(zip(rows, self.run([places[row] for row in rows], progress, budget), strict=True))
            if on_results is not None:
                on_results(len(results), len(places))

        run_in_chunks(len(places), at_once, run)
        return [results[row] for row in range(len(places))]

    def run(
        self, places: Sequence[PromptPosition], progress: Progress | None, budget: Budget | None = None
    ) -> list[Attribution]:
        """One forward pass for all prompts, then one backward pass per direction.

        Raises:
            OutOfMemoryError: when they do not fit in memory together.
        """
        if self.points is not None:
            results = [self._run_at_points(place, progress) for place in places]
        else:
            results = self._run(places, progress, budget or self.budget())
        return results if self.spec.lens is None else self._with_readings(self.spec.lens, places, results)

    def _with_readings(
        self, lens: Lens, places: Sequence[PromptPosition], results: Sequence[Attribution]
    ) -> list[Attribution]:
        """The results with what a lens reads in the cells of their maps, from one more forward pass for all."""
        sequences = [place.sequences[0] for place in places]
        mask = torch.zeros(len(places), len(self.layer_names), max(map(len, sequences)), dtype=torch.bool)
        for row, result in enumerate(results):
            assert result.layers is not None
            sizes = result.layers.abs().nan_to_num(nan=torch.inf)
            sizes[:, torch.tensor(result.special)] = -1  # the last to be read
            largest = sizes.flatten().topk(min(lens.cells, sizes.numel())).indices
            layer, position = largest // len(result), largest % len(result)
            mask[row, layer, position] = True
        ids, probabilities = read_cells(self.model, self.unembedding, lens, sequences, self.layer_names, mask)
        # Each token that occurs is named once.
        names = {token: self.token(token) for token in ids[ids >= 0].unique().tolist()}
        readings = []
        for row, result in enumerate(results):
            cells = ids[row, :, : len(result)].tolist()
            of_cells = [[[token for token in cell if token >= 0] for cell in line] for line in cells]
            readings.append(
                LensReading(
                    lens=lens.name,
                    equation=lens.equation,
                    token_ids=of_cells,
                    tokens=[[[names[token] for token in cell] for cell in line] for line in of_cells],
                    probabilities=probabilities[row, :, : len(result)].clone(),
                )
            )
        return [replace(result, lens=reading) for result, reading in zip(results, readings, strict=True)]

    def _run(self, places: Sequence[PromptPosition], progress: Progress | None, budget: Budget) -> list[Attribution]:
        # One row for each prompt, or for each answer to it, and one final state for each prediction.
        rows_each = len(places[0].sequences)
        sequences = [sequence for place in places for sequence in place.sequences]
        reads = [(index * rows_each + row, at) for index, place in enumerate(places) for row, at in place.reads]
        starts = self._other_activations(places)
        held = sum(values.nbytes for values in starts.values()) if starts else 0
        plan = budget.plan(max(map(len, sequences)), len(sequences), held)
        # One forward pass for all prompts, and the directions of each from the final states that are its own.
        graph = trace_within(self.model, sequences, self.read_names, plan, self.path_hooks(), reads)
        with torch.no_grad():
            states = self.final_states(graph, [target for place in places for target in place.targets])
            remaining = iter(states)
            states_of = [[next(remaining) for _ in place.predictions] for place in places]
            directions = [self.directions(*pair) for pair in zip(places, states_of, strict=True)]
        # One backward pass for the i-th direction of every prompt.
        amplitude = self._amplitude(_text_mask(places, graph), starts)
        scores = score(graph, directions, amplitude, progress, rows_each=rows_each)
        memory = graph.outcome(plan, max(len(item.vectors) for item in directions))
        return [
            self._result(row, place, states_of[row], directions[row], scores, memory)
            for row, place in enumerate(places)
        ]

    def _spec_of(self, place: PromptPosition) -> Spec:
        """What is asked of one prompt of a batch."""
        return place.spec or self.spec

    def _other_activations(self, places: Sequence[PromptPosition]) -> dict[str, Tensor] | None:
        """The sites' activations under the other prompts that the readout measures from, one row for each place."""
        if self.readout.other_prompt is None:
            return None
        sequences = [sequence for place in places for sequence in place.other_sequences]
        activations = read_activations(self.model, sequences, [EMBEDDING, *self.read_names])
        return {name: values[:: len(places[0].sequences)] for name, values in activations.items()}

    def directions(self, place: PromptPosition, states: Sequence[FinalState]) -> Directions:
        """The objective's directions for one prompt: of its next token, or of its answers."""
        if not place.answers:
            return self.objective.directions(states[0])
        parts = [self.objective.answer_directions(answer) for answer in place.by_answer(states)]
        return parts[0] if len(parts) == 1 else contrast(*parts)

    def change(self, place: PromptPosition, before: Sequence[FinalState], after: Sequence[FinalState]) -> float:
        """What an intervention really did to the output explained, in its units: that of the next token, or of the
        answers."""
        if not place.answers:
            return self.objective.change(before[0], after[0])
        pairs = zip(place.by_answer(before), place.by_answer(after), strict=True)
        first, *others = (self.objective.answer_change(*pair) for pair in pairs)
        return first - sum(others)

    def _run_at_points(self, place: PromptPosition, progress: Progress | None) -> Attribution:
        """The same with gradients averaged over points."""
        points = self._spec_of(place).points
        assert points is not None
        path_hooks, budget = self.path_hooks(), self.budget()
        plan = budget.plan(max(map(len, place.sequences)))
        gauge = PeakGauge(self.model, plan.limited)
        graph = trace(self.model, place.sequences, self.read_names, path_hooks, place.reads)
        states = self.final_states(graph, place.targets)
        directions = self.directions(place, states)
        # Its mean gradients stand in for those of the prompt's own graph.
        averaged = average_over_points(
            self.model,
            place,
            points,
            lambda at_point: self.directions(place, at_point),
            states,
            directions,
            graph,
            path_hooks,
            budget,
            with_starts=self.readout.from_baseline,
            progress=progress,
        )
        starts = self._other_activations([place]) or averaged.starts
        amplitude = self._amplitude(_text_mask([place], averaged), starts)
        scores = score(averaged, [averaged.directions], amplitude)
        return self._result(0, place, states, directions, scores, replace(plan, peak=gauge.peak()))

    def _amplitude(self, averaged: Bool[Tensor, "batch pos"], starts: Mapping[str, Tensor] | None) -> Amplitude:
        """The readout with its baseline.

        Args:
            averaged: marks the tokens whose mean is the baseline "mean".
            starts: the sites' activations that the readout measures from instead: at a path's start, or under another
                prompt.
        """

        def amplitude(name: str, gradient: Tensor, activation: Tensor) -> Tensor:
            if starts is None:
                baseline = self.readout.baseline_values(activation, averaged.to(activation.device))
            else:
                baseline = starts[name]
            return self.readout.amplitude(gradient, activation, baseline)

        return amplitude

    def final_states(self, graph: Trace | SlicedTrace, targets: Sequence[int | None]) -> list[FinalState]:
        """The final states that were read, in the compute dtype, with a default target each.

        Raises:
            NumericsError: when logits are not finite.
        """
        return self.check_states(graph.final_states.detach(), targets)

    def check_states(self, ys: Float[Tensor, "read d_model"], targets: Sequence[int | None]) -> list[FinalState]:
        """As `final_states`, from the inputs of the unembedding."""
        ys = ys.to(self.unembedding.W_U.device, compute_dtype(ys.dtype))
        states = FinalState.several(ys, self.unembedding, targets)
        if not all(bool(state.logits.isfinite().all()) for state in states):
            raise NumericsError(
                "the logits are not finite though the final state is: check the weights of unembed "
                f"({self.unembedding.W_U.dtype})."
            )
        return states

    def _result(
        self,
        row: int,
        place: PromptPosition,
        states: Sequence[FinalState],
        directions: Directions,
        scores: Mapping[str, SiteScores],
        memory: MemoryPlan,
    ) -> Attribution:
        """The result of one prompt of a batch: its scores, with everything that says what they are."""
        state = states[0]
        prompt, length = place.eligible_tokens  # a row of the batch is as long as its longest prompt

        def values(name: str) -> Tensor:
            return scores[name].scores[row, :length].detach().cpu()

        def errors(name: str) -> Tensor | None:
            error = scores[name].standard_error
            return None if error is None or directions.sampled == 0 else error[row, :length].detach().cpu()

        # The tokens' own scores, where the spec reads them.
        if self.at_embedding:
            totals, standard_error = values(EMBEDDING), errors(EMBEDDING)
        else:
            parts = [(values(name), errors(name)) for name in self.score_names]
            totals, standard_error = total_over_sites(parts, squared=directions.squared)
        layer_errors = [error for name in self.layer_names if (error := errors(name)) is not None]
        answers = place.answer_records(states)
        record = self.record(prompt, length - 1, state)
        record |= {"position": place.position, **self.answer_fields(place, state)}
        return Attribution(
            **record,
            target=None if answers else self.predicted_target(state),
            answer=answers[0] if answers else None,
            other_answer=answers[1] if len(answers) > 1 else None,
            scores=totals,
            contract=attribution_contract(self._terms(place, state, length, directions)),
            settings=self._attribution_settings(place, directions),
            memory=memory,
            details=DirectionDetails.of(directions.details),
            layers=torch.stack([values(name) for name in self.layer_names]) if self.layer_names else None,
            layer_names=list(self.layer_names),
            sites={name: values(name) for name in self.site_names},
            standard_error=standard_error,
            layers_standard_error=torch.stack(layer_errors) if layer_errors else None,
            warnings=[
                *directions.warnings,
                *self.target_warnings(place, state),
                *score_warnings(totals, standard_error, self._cut_sites(values)),
            ],
        )

    def _terms(self, place: PromptPosition, state: FinalState, length: int, directions: Directions) -> ContractTerms:
        """What the contract of an attribution is made of."""
        spec = self._spec_of(place)
        return ContractTerms(
            output=self.output(place, state),
            position=place.position,
            n_tokens=length,
            at=self.score_names,
            sites=[*self.layer_names, *self.site_names],
            path=None if self.path is None else self.path.held,
            equation=self.objective.equation,
            readout=spec.readout,
            n_directions=len(directions.vectors),
            squared=directions.squared,
            sampled=directions.sampled,
            points=None if spec.points is None else spec.points.describe(),
            answer_process=place.answer_process,
            eligible_answer=length - len(place.token_ids),
            routed=self.model.has_experts,
        )

    def _attribution_settings(self, place: PromptPosition, directions: Directions) -> dict[str, Any]:
        """The settings of an attribution: how its scores are read, and what their unit follows from."""
        spec = self._spec_of(place)
        return self.settings(
            place.position,
            readout=readout_record(spec.readout, place.other, place.position + 1),
            points=None if spec.points is None else choice_record(spec.points),
            score_sites=[] if self.at_embedding else self.score_names,
            sites=[EMBEDDING, *self.layer_names, *self.site_names],
            **({} if self.spec.lens is None else {"lens": self.spec.lens.name}),
            squared=directions.squared and self.at_embedding,
            divergence=directions.squared,
            directions=len(directions.vectors),
            matmul_dtype=self.model.matmul_dtype,
        )

    def record(
        self,
        prompt: Prompt,
        position: int,
        state: FinalState,
        *,
        whole: bool = False,
    ) -> dict[str, Any]:
        """The fields that every result has: prompt, prediction, objective and provenance.

        Args:
            prompt: whose tokens are named.
            position: after which the (last) prediction is explained.
            state: the final state there.
            whole: whether tokens after the position are named too.
        """
        text = prompt if whole else prompt.first(position + 1)
        return {
            "tokens": list(text.tokens),
            "token_ids": list(text.token_ids),
            "special": list(text.special),
            "offsets": None if text.offsets is None else list(text.offsets),
            "text": text.text,
            "turns": dict(text.turns),
            "position": position,
            "prediction": self.prediction(state),
            "scope": self.explanation.scope,
            "objective": self.explanation.signature(self.label, state),
            "spec": self.spec_record(self.spec),
            "model": asdict(model_record(self.model)),
            "versions": package_versions(),
        }

    def output(self, place: PromptPosition, state: FinalState) -> str:
        """The output explained, in words."""
        if not place.answers:
            return self.explanation.describe(self.label, state)
        first, *others = place.answers
        text = " minus that of ".join(repr(answer.text) for answer in place.answers) if others else first.text
        return self.explanation.describe_answer(text, len(first))

    def answer_fields(self, place: PromptPosition, state: FinalState) -> dict[str, Any]:
        """The fields that say which answer is explained, where one is given or generated."""
        explanation, spec = self.explanation, self._spec_of(place)
        if not place.answers or explanation.contrasted:
            return {"spec": self.spec_record(spec)}
        # The name of an objective that takes a token would name the answer's first.
        names_token = explanation.takes_target and isinstance(explanation, Objective)
        name = f"{type(explanation).__name__}()" if names_token else explanation.signature(self.label, state)
        (answer,) = place.answers
        return {"objective": f"{name}, answer={answer.text!r}", "spec": self.spec_record(spec)}

    def spec_record(self, spec: Spec) -> dict[str, Any]:
        """The options that ask for the result again; for a value of Python that has no text, its name alone."""
        try:
            return spec.to_options()
        except LensScopesError:
            return {"scope": self.explanation.scope, **plain(self.explanation.settings())}

    def settings(self, position: int, **more: Any) -> dict[str, Any]:
        """The settings of a result as plain values: objective, path and position, and what its kind has besides."""
        return plain(
            {
                "objective": {"scope": self.explanation.scope, **self.explanation.settings()},
                "path": None if self.path is None else str(self.path),
                "position": position,
                **more,
            }
        )

    def _cut_sites(self, values: Callable[[str], Tensor]) -> list[str]:
        """Sites that no influence reaches though it reaches the embedding."""
        if not bool(values(EMBEDDING).any()):
            return []
        return [name for name in self.read_names if not bool(values(name).any())]

    def label(self, token_id: int) -> str:
        """A token of the vocabulary as it is written in results: quoted."""
        return repr(self.token(token_id))

    def token(self, token_id: int) -> str:
        """A token of the vocabulary as text."""
        return token_string(self.model, token_id)

    def predicted_target(self, state: FinalState) -> PredictedToken | None:
        """The first target of the explanation, with its probability, where it has one."""
        targets = self.explanation.targets(state)
        return self._predicted_token(state, targets[0]) if targets else None

    def target_warnings(self, place: PromptPosition, state: FinalState) -> list[str]:
        """What to know of targets that lack the space before them: in most vocabularies "Paris" and " Paris" are two
        tokens, and it is easy to name the wrong one."""
        if place.answers:
            return []
        probabilities = {item.token: item.probability for item in self.prediction(state).top}
        warnings = []
        for target in (self._predicted_token(state, token_id) for token_id in self.explanation.targets(state)):
            with_space = probabilities.get(f" {target.token}", 0.0)
            if with_space > target.probability:
                warnings.append(
                    f"the target {target.token!r} has no space before it and the probability {target.probability:.2g}; "
                    f"{' ' + target.token!r} has {with_space:.2g}."
                )
        return warnings

    def _predicted_token(self, state: FinalState, token_id: int) -> PredictedToken:
        return PredictedToken(token_id, self.token(token_id), float(state.probabilities[token_id]))

    def prediction(self, state: FinalState) -> Prediction:
        """What the model predicts: top tokens, entropy and β."""
        top = state.probabilities.topk(min(_TOP_TOKENS, len(state.probabilities))).indices.tolist()
        return Prediction([self._predicted_token(state, token) for token in top], state.entropy, float(state.y.norm()))


def _text_mask(places: Sequence[PromptPosition], graph: GradientSource) -> Bool[Tensor, "batch pos"]:
    """The prompts' tokens that "mean" averages; answers and padding are none of them."""
    mask = text_mask([place.special for place in places])
    return torch.nn.functional.pad(mask, (0, graph.token_mask.shape[1] - mask.shape[1]))
