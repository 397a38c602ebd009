"""The main job: text → Prompt → one forward and the fewest backward passes → Attribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.averaging import average_over_points
from lens_scopes.attribution.scoring import SiteScores, score, total_over_sites
from lens_scopes.engine.backward import Progress, SlicedTrace, Trace, trace, trace_within
from lens_scopes.engine.final_state import (
    FinalState,
    PredictedToken,
    Prediction,
    Unembedding,
    compute_dtype,
    unembedding,
)
from lens_scopes.engine.forward import Batch, Hook, check_finite, final_states
from lens_scopes.engine.memory import Budget, MemoryPlan, in_portions, parse_memory
from lens_scopes.engine.model_checks import require_gradients, require_used
from lens_scopes.engine.precision import Products, check_products, products_in
from lens_scopes.engine.sites import EMBEDDING, layer_sites, named_sites
from lens_scopes.engine.text_mean import averaged_mask
from lens_scopes.errors import NumericsError, ObjectiveError, PromptError, SiteError
from lens_scopes.models.load import model_record
from lens_scopes.prompts.prompt import Prompt, next_token_id, resolve_position
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.tokens import resolve_token, token_string
from lens_scopes.results.attribution import Attribution, DirectionDetails
from lens_scopes.results.record import plain
from lens_scopes.scopes.comparisons import Baseline
from lens_scopes.scopes.contract import ContractTerms, attribution_contract
from lens_scopes.scopes.objectives import DirectionFunction, Directions, Explanation, Objective
from lens_scopes.scopes.paths import Path, PathLike, as_path
from lens_scopes.scopes.points import Points, PointsLike, as_points
from lens_scopes.scopes.readouts import Norm, Readout, as_readout
from lens_scopes.scopes.registry import as_baseline, as_objective

_TOP_TOKENS = 10
_BATCH_TOKENS = 512  # padded tokens in one forward pass of attribute_batch: beyond, a processor's caches overflow
_BATCH_TOKENS_OF_GPU = 8192
_NOISY = 0.2  # a standard error above this share of the scores is worth a warning


def attribute(
    model: Any,
    prompt: PromptLike,
    objective: Explanation | str | DirectionFunction | None = None,
    *,
    position: int = -1,
    target: str | int | None = None,
    layers: bool | str = False,
    sites: str | Sequence[str] = (),
    at: str | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    points: PointsLike = None,
    memory: str | int | None = None,
    products: Products = "own",
    progress: Progress | None = None,
) -> Attribution:
    """Which tokens made the model say that: influence of every token on one prediction.

    One forward pass to the final state y at `position`, one vector–Jacobian product for each of the objective's
    directions v_i, and score_t = Σ_i w_i a_i,t² (√w·a_t for one direction) at every site from the same passes.

    Args:
        model: a HookedTransformer or TransformerBridge, from `load_model` or elsewhere.
        prompt: text, chat messages, token ids, or a Prompt.
        objective: what is explained: an objective (`Semantic`, `LogProb`, `LogitDiff`, `Temperature`, `Entropy`,
            `Fisher`, `Custom`), its name, or a function of (y, logits). By default Semantic. Or a baseline to compare
            with, which is no gradient (`LeaveOneOut`, `AttentionRollout`, `ValueWeightedAttention`, `RandomScores`,
            `ExternalScores`): then sites, path, readout and points do not apply.
        position: the token after which the prediction is explained, negative from the end; later tokens are dropped.
        target: the next token explained by `Semantic()`, `LogProb()` and `LeaveOneOut("logit" or "logprob")`, as a
            string that is one token or an id; by default the token that follows in the text, else the model's own top
            token. Refused for an objective that names its own token, or explains none.
        layers: True for influence at every layer's hook_resid_pre too; or "resid_mid", "resid_post".
        sites: further hook names, short ("hook_z": every layer) or full ("blocks.3.attn.hook_z").
        at: where the tokens' scores are read: at the embedding unless the objective has a place of its own
            (`FisherAtValues`), or at an activation by such a name. Over its layers and heads scores s are put together
            as Σ_l √(Σ_h s_l,h,t); the readout "relative" makes layers comparable.
        through: which components carry gradient: a path such as `Layers(5, 9)`, `Heads("L3H2")`, `Attention()`,
            `MLP()`, `Frozen("patterns")` or a combination, or a line of text such as "5-9"; the rest is held fixed. By
            default all.
        readout: "norm" (largest effect of a unit change; usual unless the objective has one of its own), "dot" (effect
            of the activation's value against zero, or against the start of a path), "product" (the same, summed up by
            a norm), "relative" (largest effect of a change as large as the activation), or a Readout.
        points: where gradients are taken: None for the prompt itself, or averaged over `StraightPath(start, steps)` or
            `Noise(samples, scale)`, or a line of text such as "path-mean@32", "path-bos-held" or "noise@8".
        memory: the most to use beyond the model's weights, as "4GB" or in bytes; by default a share of what is free.
            Where the whole graph does not fit, slices of layers are run again on the way back, with the same scores.
        products: "own" for matrix products in the model's dtype; "bfloat16" for faster ones of rounded factors, with
            everything else in the model's dtype. Ranks of scores agree to 0.999 on Gemma 3 270M, not their last digits.
        progress: called with (directions done, directions in all) as they are backpropagated.

    Returns:
        An Attribution; units and meaning of its scores are in its contract.

    Raises:
        LensScopesError: PromptError, ObjectiveError, SiteError, PathError, ReadoutError, NumericsError or
            ModelError, each with what came, what was expected and what to do. The model's hooks and state are as
            before.

    Source: Jacobian Scopes, arXiv:2601.16407.
    """
    baseline = as_baseline(objective)
    if baseline is not None:
        _refuse_choices(baseline, layers=layers, sites=sites, at=at, through=through, readout=readout, points=points)
        baseline.check_target(target)
        return _by_baseline(model, baseline, Request.read(model, prompt, position, target), progress)
    job = Job.read(model, objective, layers, sites, through, readout, memory, points, products, at)
    job.objective.check_target(target)
    request = Request.read(model, prompt, position, target)
    return job.run_all([request], progress)[0]


def _refuse_choices(baseline: Baseline, **choices: Any) -> None:
    """A baseline has no site, path, readout or points: to take one silently would be to claim what is not there."""
    usual = {
        "layers": (False,),
        "sites": ((), []),
        "at": (None, EMBEDDING),
        "through": (None,),
        "readout": (None, "norm", Norm()),
        "points": (None,),
    }
    for name, value in choices.items():
        if value not in usual[name]:
            raise ObjectiveError(
                f"{baseline.scope} takes no gradient, so {name}={value!r} does not apply to it; leave {name} out, or "
                "choose a scope such as Fisher()."
            )


def _by_baseline(model: Any, baseline: Baseline, request: Request, progress: Progress | None) -> Attribution:
    """The result of an explanation that takes no gradient."""
    job = Job.read(model, None, False, (), None, "norm")
    batch = Batch.of(model, [request.token_ids])
    with torch.no_grad():
        states = final_states(model, batch)
    check_finite(model, states, batch)
    state = job.checked_states(states, [request.target])[0]
    length = len(request.token_ids)
    explained = baseline.prepare(model)
    scores = explained.scores(model, request.token_ids, request.prompt.special[:length], state).cpu()
    if progress is not None:
        progress(1, 1)
    return Attribution(
        **job.record(request.prompt, request.position, state, explained),
        target=job.predicted_target(state, explained),
        scores=scores,
        contract=explained.contract(explained.describe(job.label, state), request.position, length),
        settings=job.settings(request.position, explained, readout=None, points=None, at=[], sites=[EMBEDDING]),
        warnings=_warnings(scores, None, []),
    )


def attribute_batch(
    model: Any,
    prompts: Sequence[PromptLike],
    objective: Objective | str | DirectionFunction | None = None,
    *,
    position: int = -1,
    target: str | int | None = None,
    layers: bool | str = False,
    sites: str | Sequence[str] = (),
    at: str | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    memory: str | int | None = None,
    products: Products = "own",
    progress: Progress | None = None,
) -> list[Attribution]:
    """`attribute` for many prompts, run in batches of similar length; scores are those of single calls.

    Args:
        prompts: as for `attribute`, one result each, in their order.
        progress: called with (prompts done, prompts in all).

    The other arguments, results and errors are those of `attribute`.
    """
    if isinstance(prompts, str):
        raise PromptError("attribute_batch takes a list of prompts, and got one text; write [text], or use attribute.")
    job = Job.read(model, objective, layers, sites, through, readout, memory, products=products, at=at)
    job.objective.check_target(target)
    requests = [Request.read(model, prompt, position, target) for prompt in prompts]
    return job.run_all(requests, None, progress)


def _batch_tokens(model: Any) -> int:
    return _BATCH_TOKENS if next(model.parameters()).device.type == "cpu" else _BATCH_TOKENS_OF_GPU


@dataclass(frozen=True)
class Request:
    """One prompt with the position and the target to explain."""

    prompt: Prompt
    position: int
    target: int | None

    @classmethod
    def read(cls, model: Any, prompt: PromptLike, position: int, target: str | int | None) -> Request:
        """Reads a prompt, its position and its target against the model, once, at the boundary."""
        read = read_prompt(model, prompt)
        at = resolve_position(read, position)
        return cls(read, at, next_token_id(read, at) if target is None else resolve_token(model, target))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens up to the position: later ones cannot matter."""
        return self.prompt.token_ids[: self.position + 1]

    @property
    def special(self) -> tuple[bool, ...]:
        """Which of `token_ids` are special."""
        return self.prompt.special[: self.position + 1]


@dataclass(frozen=True)
class Job:
    """The four choices, checked against the model."""

    model: Any
    unembedding: Unembedding
    objective: Objective
    layer_names: list[str]
    site_names: list[str]
    path: Path | None
    readout: Readout
    memory: int | None
    points: Points | None
    products: Products
    at_names: list[str]

    @classmethod
    def read(
        cls,
        model: Any,
        objective: Explanation | str | DirectionFunction | None,
        layers: bool | str,
        sites: str | Sequence[str],
        through: PathLike,
        readout: Readout | str | None,
        memory: str | int | None = None,
        points: PointsLike = None,
        products: Products = "own",
        at: str | None = None,
    ) -> Job:
        """Reads the four choices against the model, once, at the boundary."""
        readable = unembedding(model)
        require_gradients(model)
        explained = as_objective(objective)
        taken_at = as_points(points)
        read_by = (explained.readout if readout is None else as_readout(readout)).along(taken_at)
        read_at = explained.at if at is None else at
        layer_names, site_names = layer_sites(model, layers), named_sites(model, sites)
        at_names = named_sites(model, read_at)
        require_used(model, [*layer_names, *site_names, *at_names], SiteError)
        if at_names != [EMBEDDING] and read_by.signed:
            raise SiteError(
                f"signed scores have no total over {read_at}: read them by norm, product or relative, or ask for "
                f"sites={read_at!r} to have each layer's."
            )
        return cls(
            model=model,
            unembedding=readable,
            objective=explained.prepare(model),
            layer_names=layer_names,
            site_names=site_names,
            path=as_path(through),
            readout=read_by,
            memory=parse_memory(memory),
            points=taken_at,
            products=check_products(products),
            at_names=at_names,
        )

    @property
    def at_embedding(self) -> bool:
        """Whether the tokens' scores are read at the embedding."""
        return self.at_names == [EMBEDDING]

    def require_embedding(self) -> Job:
        """The job itself, for what has sites of its own.

        Raises:
            ObjectiveError: where the objective is read elsewhere by its name.
        """
        if not self.at_embedding:
            raise ObjectiveError(
                f"{self.objective.scope} is read at {self.objective.at}, and heads and matrices have sites of their "
                "own; choose fisher."
            )
        return self

    @property
    def read_names(self) -> list[str]:
        """All sites where gradients are read, besides the embedding."""
        names = dict.fromkeys([*self.layer_names, *self.site_names, *self.at_names])
        return [name for name in names if name != EMBEDDING]

    def budget(self) -> Budget:
        """What the job may use beyond the model's weights, by what is free now."""
        return Budget(self.model, self.memory)

    def path_hooks(self) -> list[tuple[str, Hook]]:
        """The hooks that hold fixed what the path leaves out."""
        return [] if self.path is None else self.path.hooks(self.model)

    def run_all(
        self, requests: Sequence[Request], progress: Progress | None, on_results: Progress | None = None
    ) -> list[Attribution]:
        """One result a request, in their order; those of similar length run together, as many as memory holds.

        Args:
            progress: called with (directions done, directions in all) of each batch.
            on_results: called with (requests done, requests in all).
        """
        lengths = [len(request.token_ids) for request in requests]
        order = sorted(range(len(requests)), key=lambda row: -lengths[row])
        results: dict[int, Attribution] = {}
        budget, most = self.budget(), _batch_tokens(self.model)

        def at_once(start: int) -> int:
            longest = lengths[order[start]]
            return budget.rows(longest, max(1, most // longest))

        def run(items: range) -> None:
            rows = [order[item] for item in items]
            results.update(zip(rows, self.run([requests[row] for row in rows], progress, budget), strict=True))
            if on_results is not None:
                on_results(len(results), len(requests))

        in_portions(len(requests), at_once, run)
        return [results[row] for row in range(len(requests))]

    def run(
        self, requests: Sequence[Request], progress: Progress | None, budget: Budget | None = None
    ) -> list[Attribution]:
        """One forward pass for all requests, then one backward pass per direction.

        Raises:
            OutOfMemoryError: when they do not fit in memory together.
        """
        with products_in(self.products):
            if self.points is not None:
                return [self._run_at_points(request, self.points, progress) for request in requests]
            return self._run(requests, progress, budget or self.budget())

    def _run(self, requests: Sequence[Request], progress: Progress | None, budget: Budget) -> list[Attribution]:
        prompts = [request.token_ids for request in requests]
        plan = budget.plan(max(map(len, prompts)), len(prompts))
        traced = trace_within(self.model, prompts, self.read_names, plan, self.path_hooks())
        with torch.no_grad():
            states = self.final_states(traced, [request.target for request in requests])
            directions = [self.objective.directions(state) for state in states]
        averaged = averaged_mask([request.special for request in requests])
        scores = score(traced, directions, self.readout, averaged, progress)
        memory = traced.outcome(plan, max(len(item.vectors) for item in directions))
        return [
            self._result(row, request, state, directions[row], scores, memory)
            for row, (request, state) in enumerate(zip(requests, states, strict=True))
        ]

    def _run_at_points(self, request: Request, points: Points, progress: Progress | None) -> Attribution:
        """The same with gradients averaged over points."""
        path_hooks, budget = self.path_hooks(), self.budget()
        traced = trace(self.model, [request.token_ids], self.read_names, path_hooks)
        state = self.final_states(traced, [request.target])[0]
        directions = self.objective.directions(state)
        averaged = average_over_points(
            self.model,
            request.prompt,
            points,
            self.objective,
            state,
            directions,
            traced,
            path_hooks,
            budget,
            with_starts=self.readout.from_baseline,
            progress=progress,
        )
        mask = averaged_mask([request.special])
        scores = score(averaged, [averaged.directions], self.readout, mask, starts=averaged.starts)
        return self._result(0, request, state, directions, scores, budget.plan(len(request.token_ids)))

    def final_states(self, traced: Trace | SlicedTrace, targets: Sequence[int | None]) -> list[FinalState]:
        """The final states that were read, in the compute dtype, with a default target each.

        Raises:
            NumericsError: when logits are not finite.
        """
        return self.checked_states(traced.final_states.detach(), targets)

    def checked_states(self, ys: Float[Tensor, "read d_model"], targets: Sequence[int | None]) -> list[FinalState]:
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
        request: Request,
        state: FinalState,
        directions: Directions,
        scores: Mapping[str, SiteScores],
        memory: MemoryPlan,
    ) -> Attribution:
        length = len(request.token_ids)

        def values(name: str) -> Tensor:
            return scores[name].scores[row, :length].detach().cpu()

        def errors(name: str) -> Tensor | None:
            found = scores[name].standard_error
            return None if found is None or directions.sampled == 0 else found[row, :length].detach().cpu()

        if self.at_embedding:
            own, standard_error = values(EMBEDDING), errors(EMBEDDING)
        else:
            parts = [(values(name), errors(name)) for name in self.at_names]
            own, standard_error = total_over_sites(parts, squared=directions.squared)
        layer_errors = [error for name in self.layer_names if (error := errors(name)) is not None]
        return Attribution(
            **self.record(request.prompt, request.position, state),
            target=self.predicted_target(state),
            scores=own,
            contract=attribution_contract(
                ContractTerms(
                    output=self.objective.describe(self.label, state),
                    position=request.position,
                    n_tokens=length,
                    at=self.at_names,
                    sites=[*self.layer_names, *self.site_names],
                    path=None if self.path is None else str(self.path),
                    equation=self.objective.equation,
                    readout=self.readout,
                    n_directions=len(directions.vectors),
                    squared=directions.squared,
                    sampled=directions.sampled,
                    points=None if self.points is None else self.points.describe(),
                )
            ),
            settings=self.settings(
                request.position,
                readout=choice_record(self.readout),
                points=None if self.points is None else choice_record(self.points),
                at=[] if self.at_embedding else self.at_names,
                sites=[EMBEDDING, *self.layer_names, *self.site_names],
                squared=directions.squared and self.at_embedding,
                divergence=directions.squared,
                directions=len(directions.vectors),
                products=self.products,
            ),
            memory=memory,
            details=DirectionDetails.of(directions.details),
            layers=torch.stack([values(name) for name in self.layer_names]) if self.layer_names else None,
            layer_names=list(self.layer_names),
            sites={name: values(name) for name in self.site_names},
            standard_error=standard_error,
            layers_standard_error=torch.stack(layer_errors) if layer_errors else None,
            warnings=[*directions.warnings, *_warnings(own, standard_error, self._cut_sites(values))],
        )

    def record(
        self,
        prompt: Prompt,
        position: int,
        state: FinalState,
        explanation: Explanation | None = None,
        *,
        whole: bool = False,
    ) -> dict[str, Any]:
        """The fields that every result has: prompt, prediction, objective and provenance.

        Args:
            prompt: whose tokens are named.
            position: after which the (last) prediction is explained.
            state: the final state there.
            explanation: what is explained, where that is not the job's objective.
            whole: whether tokens after the position are named too.
        """
        explanation = explanation or self.objective
        length = len(prompt) if whole else position + 1
        return {
            "tokens": list(prompt.tokens[:length]),
            "token_ids": list(prompt.token_ids[:length]),
            "special": list(prompt.special[:length]),
            "offsets": None if prompt.offsets is None else list(prompt.offsets[:length]),
            "text": prompt.text,
            "position": position,
            "prediction": self.prediction(state),
            "scope": explanation.scope,
            "objective": explanation.signature(self.label, state),
            "model": asdict(model_record(self.model)),
            "versions": package_versions(),
        }

    def settings(self, position: int, explanation: Explanation | None = None, **more: Any) -> dict[str, Any]:
        """The settings of a result as plain values: objective, path and position, and what its kind has besides."""
        explanation = explanation or self.objective
        return plain(
            {
                "objective": {"scope": explanation.scope, **explanation.settings()},
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

    def predicted_target(self, state: FinalState, explanation: Explanation | None = None) -> PredictedToken | None:
        """The first target of the objective, or of another explanation, with its probability, where it has one."""
        targets = (explanation or self.objective).targets(state)
        return self._predicted(state, targets[0]) if targets else None

    def _predicted(self, state: FinalState, token_id: int) -> PredictedToken:
        return PredictedToken(token_id, self.token(token_id), float(state.probabilities[token_id]))

    def prediction(self, state: FinalState) -> Prediction:
        """What the model predicts: top tokens, entropy and β."""
        top = state.probabilities.topk(min(_TOP_TOKENS, len(state.probabilities))).indices.tolist()
        return Prediction([self._predicted(state, token) for token in top], state.entropy, float(state.y.norm()))


def choice_record(choice: Readout | Points) -> dict[str, Any]:
    """The name and settings of a readout or of points, as plain values; a user's own need not be a dataclass."""
    fields = asdict(choice) if is_dataclass(choice) and not isinstance(choice, type) else {}
    return {"name": choice.name, **fields}


def _warnings(scores: Tensor, standard_error: Tensor | None, cut_sites: Sequence[str]) -> list[str]:
    found = []
    if cut_sites:
        names = cut_sites[0] if len(cut_sites) == 1 else f"{cut_sites[0]} and {len(cut_sites) - 1} more"
        found.append(f"nothing flows back to {names}, which the path or a hook holds fixed: its scores are zero.")
    if not bool(scores.any()):
        found.append("every score is zero: at this position nothing in the prompt moves the output explained.")
    if standard_error is not None:
        share = float(standard_error.square().sum().sqrt() / scores.square().sum().sqrt().clamp_min(1e-300))
        if share > _NOISY:
            found.append(f"the standard error is {share:.0%} of the scores; ask for more samples.")
    return found


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    names = ("lens-scopes", "torch", "transformer-lens", "transformers")
    found = []
    for name in names:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    return dict(_versions())
