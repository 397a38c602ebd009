"""The main job: text → Prompt → one forward and the fewest backward passes → Attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.provenance import record_alterations, score_warnings
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress
from lens_scopes.engine.model import Batch, MatmulDtype, ModelLike, one_at_a_time
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import PromptError
from lens_scopes.prompts.answer import AnswerLike
from lens_scopes.prompts.chat import is_chat
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.attribution import Attribution
from lens_scopes.scopes.comparisons.baseline import Baseline
from lens_scopes.scopes.lens import LensLike
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.points import PointsLike
from lens_scopes.scopes.readouts import Dot, Norm, Readout
from lens_scopes.scopes.spec import ObjectiveLike, Spec


@one_at_a_time
@record_alterations
def attribute(
    model: ModelLike,
    prompt: PromptLike,
    objective: ObjectiveLike = None,
    *,
    position: int = -1,
    target: str | int | None = None,
    answer: AnswerLike | None = None,
    eligible: str | None = None,
    layers: bool | str = False,
    lens: LensLike = None,
    sites: str | Sequence[str] = (),
    score_site: str | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    points: PointsLike = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> Attribution:
    """Which tokens made the model say that: influence of every token on one prediction.

    One forward pass to the final state y at `position`, one vector–Jacobian product for each of the objective's
    directions v_i, and score_t = Σ_i w_i a_i,t² (√w·a_t for one direction) at every site from the same passes.

    Args:
        model: a HookedTransformer or TransformerBridge, from `load_model` or elsewhere.
        prompt: text, chat messages, token ids, or a Prompt.
        objective: what is explained: an objective (`Semantic`, `LogProb`, `LogitDiff`, `Temperature`, `Entropy`,
            `Fisher`, `Custom`), its name or a line such as "fisher@8+dot", or a function of (y, logits). By default
            Semantic. A `Spec` such as `FisherAtValues()` chooses more, and stands where no other choice is given. A
            method to compare with has a readout of its own (`LeaveOneOut`, `ContextCite`, `FadedAttention`,
            `AttentionRollout`, `ValueWeightedAttention`, `RandomScores`, `ExternalScores`): sites, path, readout and
            points do not apply to it.
        position: the token after which the prediction is explained, negative from the end; later tokens are dropped.
        target: the next token explained by `Semantic()`, `LogProb()`, `LeaveOneOut("logit" or "logprob")` and
            `ContextCite()`, as a string that is one token or an id; by default the token that follows in the text,
            else the model's own top token. Refused for an objective that names its own token, or explains none.
        answer: the answer explained, in place of the next token: the objective, or what `LeaveOneOut` measures, is
            summed over the predictions of all its tokens, each of which sees the answer's earlier ones (teacher
            forcing). A text with its leading space (" Berlin, of course."), token ids, or a number of tokens for the
            model to generate. Numbers take one backward pass at any length; Fisher takes rank × length, or `samples`.
            LogProb is then log P(answer | prompt). `LogProbDiff` names two answers of its own.
        eligible: which tokens get scores where an answer is explained: "prompt" (usual), or "all" for the answer's own
            tokens but the last too.
        layers: True for influence at every layer's hook_resid_pre too; or "resid_mid", "resid_post".
        lens: also what the residual stream reads as in each cell of `layers`, which it asks for: True or "logit" for
            the model's own final norm and unembedding (`LogitLens`), or a fitted JacobianLens of TransformerLens or its
            file. One more forward pass, and one product with the unembedding for each cell.
        sites: further hook names, short ("hook_z": every layer) or full ("blocks.3.attn.hook_z").
        score_site: where the tokens' scores are read: the embedding; "values", "keys" or "residuals" of every layer,
            read by "relative" unless a readout is given; or an activation by such a name. Over its layers and heads
            scores s are put together as Σ_l √(Σ_h s_l,h,t), and "relative" makes layers comparable.
        through: which components carry gradient: a path such as `Layers(5, 9)`, `Heads("L3H2")`, `Attention()`,
            `MLP()`, `Frozen("patterns")`, `Rules("gim")` or a combination, or a line of text such as "5-9"; the rest is
            held fixed. By default all.
        readout: "norm" (largest effect of a unit change along each direction; usual unless the objective has a readout
            of its own), "dot" (effect of the activation's value against zero, or against the start of a path),
            "product" (the same, summed up by a norm), "relative" (as "norm", for a change as large as the activation),
            or a Readout.
        points: where gradients are taken: None for the prompt itself, or averaged over `StraightPath(start, steps)` or
            `Noise(samples, scale)`, or a line of text such as "path-mean@32", "path-bos-held" or "noise@8".
        memory: the most to use beyond the model's weights, as "4GB" or in bytes; by default a share of what is free.
            Where the whole graph does not fit, slices of layers are run again on the way back, with the same scores.
        matmul_dtype: of matrix products in the model's body: None for the model's own dtype; "bfloat16" for faster ones
            of rounded factors, with everything else in the model's dtype. Ranks of scores agree to 0.999 on Gemma 3
            270M, not their last digits.
        progress: called with (directions done, directions in all) as they are backpropagated.

    Returns:
        An Attribution; units and meaning of its scores are in its contract.

    Raises:
        LensScopesError: PromptError, ObjectiveError, SiteError, PathError, ReadoutError, NumericsError or
            ModelError, each with what came, what was expected and what to do. The model's hooks and state are as
            before.

    Source: Jacobian Scopes, arXiv:2601.16407.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.Semantic(" Paris"), layers=True)
        >>> att.tokens, att.scores.shape, att.layers.shape
        (['<bos>', 'The', ' capital', ' of', ' France', ' is'], torch.Size([6]), torch.Size([2, 6]))
    """
    spec = Spec.read(
        objective,
        layers=layers,
        lens=lens,
        sites=sites,
        score_site=score_site,
        through=through,
        readout=readout,
        points=points,
        target=target,
        answer=answer,
        eligible=eligible,
        memory=memory,
        matmul_dtype=matmul_dtype,
    )
    resolved = ResolvedSpec.of(model, spec, takes_answers=True)
    place = PromptPosition.of_spec(resolved.model, prompt, position, spec)
    # A comparison method takes no gradient: it scores the prompt by itself.
    if isinstance(resolved.explanation, Baseline):
        return _compare(resolved, resolved.explanation, place, progress)
    return resolved.run_all([place], progress)[0]


def _compare(resolved: ResolvedSpec, method: Baseline, place: PromptPosition, progress: Progress | None) -> Attribution:
    """The result of a comparison method."""
    # The prediction, forward alone: a comparison method runs whatever else it needs.
    model, length = resolved.model, len(place.token_ids)
    batch = Batch.of(model, place.sequences, place.reads)
    with torch.no_grad():
        ys = model.final_states(batch)
    model.check_finite(ys, batch)
    states = resolved.check_states(ys, place.targets)
    # Another prompt is cut where this one is.
    cut = method if place.other is None else method.against(place.other.token_ids[:length])
    scores = cut.scores(model, place.prompt.first(length), states).cpu()
    if progress is not None:
        progress(1, 1)
    answers = place.answer_records(states)
    record = resolved.record(place.prompt, place.position, states[0]) | resolved.answer_fields(place, states[0])
    return Attribution(
        **record,
        target=None if answers else resolved.predicted_target(states[0]),
        answer=answers[0] if answers else None,
        scores=scores,
        contract=method.contract(resolved.output(place, states[0]), place.position, length, place.answer_process),
        settings=resolved.settings(place.position, readout=None, points=None, score_sites=[], sites=[EMBEDDING]),
        warnings=[*resolved.target_warnings(place, states[0]), *score_warnings(scores, None, [])],
    )


@one_at_a_time
@record_alterations
def attribute_batch(
    model: ModelLike,
    prompts: Sequence[PromptLike],
    objective: ObjectiveLike | list[ObjectiveLike] = None,
    *,
    position: int = -1,
    target: str | int | Sequence[str | int | None] | None = None,
    answer: AnswerLike | Sequence[AnswerLike] | None = None,
    eligible: str | None = None,
    layers: bool | str = False,
    lens: LensLike = None,
    sites: str | Sequence[str] = (),
    score_site: str | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    points: PointsLike = None,
    against: PromptLike | Sequence[PromptLike] | None = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> list[Attribution]:
    """`attribute` for many prompts, run in batches of similar length; scores are those of single calls.

    Args:
        prompts: as for `attribute`.
        model, position, layers, lens, sites, score_site, through, readout: as for `attribute`.
        objective, target: as for `attribute`, the same for all prompts; or a list of one for each prompt. Prompts that
            are asked the same run together.
        answer: as for `attribute`, the same for all prompts; or a list of one for each prompt.
        against: another prompt for each prompt, of as many tokens, as a list of one each, or a text for all: scores are
            measured from it, as by `readout=ls.Dot(other)`, or along the path from it where `points` is one.
        eligible, points, memory, matmul_dtype: as for `attribute`. Comparison methods take one prompt at a time.
        progress: called with (prompts done, prompts in all).

    Returns:
        One Attribution per prompt, in the order of the prompts.

    Raises:
        LensScopesError: as `attribute`; PromptError for one text instead of a list.

    Example:
        >>> short, long = ls.attribute_batch(model, ["The capital", "The capital of France is"], ls.Fisher())
        >>> torch.allclose(short.scores, ls.attribute(model, "The capital", ls.Fisher()).scores)
        True
    """
    if isinstance(prompts, str):
        raise PromptError("attribute_batch takes a list of prompts, and got one text; write [text], or use attribute.")
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise PromptError(f"attribute_batch takes a list of prompts, and got {type(prompts).__name__}.")

    def read(objective_of: Any, token: Any, answer_of: Any) -> Spec:
        spec = Spec.read(
            objective_of,
            layers=layers,
            lens=lens,
            sites=sites,
            score_site=score_site,
            through=through,
            readout=readout,
            points=points,
            target=token,
            eligible=eligible if answer_of is None else None,
            memory=memory,
            matmul_dtype=matmul_dtype,
        )
        return spec if answer_of is None else Spec.read(spec, answer=answer_of, eligible=eligible)

    # What is asked of each prompt.
    answers = _per_prompt(answer, len(prompts), "answer")
    targets = _per_prompt(target, len(prompts), "target")
    objectives = _per_prompt(
        objective if isinstance(objective, list) else [objective] * len(prompts), len(prompts), "objective"
    )
    specs = [read(*each) for each in zip(objectives, targets, answers, strict=True)]
    if not specs:  # no prompts: the choices are checked all the same
        read(None if isinstance(objective, list) else objective, None, None).require_gradient()
    if against is not None:
        others = _per_prompt(against, len(prompts), "other prompt")
        # As `from_options`: a prompt to measure from asks for `dot` where no readout is named.
        by_default = [{"readout": Dot()} if readout is None and spec.readout == Norm() else {} for spec in specs]
        every = zip(specs, by_default, others, strict=True)
        specs = [spec.replace(**more).against(answer_of) for spec, more, answer_of in every]

    # Prompts that are asked the same run together.
    groups: list[tuple[Any, list[int]]] = []
    for row, question in enumerate(zip(objectives, targets, strict=True)):
        # By ==: an objective need not be hashable.
        rows = next((rows for other, rows in groups if other == question), None)
        if rows is None:
            groups.append((question, [row]))
        else:
            rows.append(row)
    results: dict[int, Attribution] = {}
    for _, rows in groups:
        resolved = ResolvedSpec.of(model, specs[rows[0]].require_gradient(), takes_answers=True)
        places = [PromptPosition.of_spec(resolved.model, prompts[row], position, specs[row]) for row in rows]
        results.update(
            zip(rows, resolved.run_all(places, None, _of_all(progress, len(results), len(prompts))), strict=True)
        )
    return [results[row] for row in range(len(prompts))]


def _of_all(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one group of prompts as that of all of them."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _per_prompt(choice: Any, n_prompts: int, noun: str) -> list[Any]:
    """The answer or the other prompt of each prompt; a text, a number or a Prompt is that of all of them."""
    if choice is None or isinstance(choice, str | int | Prompt) or is_chat(choice):
        return [choice] * n_prompts
    if not isinstance(choice, Sequence):
        raise PromptError(f"{noun}s are a text, a number or a list of them; got {type(choice).__name__}.")
    if len(choice) != n_prompts:
        raise PromptError(
            f"attribute_batch takes one {noun} for all prompts, or a list of one each; got {len(choice)} {noun}s for "
            f"{n_prompts} prompts."
        )
    return list(choice)
