"""The main job: text → Prompt → one forward and the fewest backward passes → Attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lens_scopes.attribution.resolved import PromptPosition, ResolvedSpec, score_warnings
from lens_scopes.engine.backward import Progress
from lens_scopes.engine.forward import Batch, check_finite, final_states
from lens_scopes.engine.precision import Products
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ObjectiveError, PromptError
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.attribution import Attribution
from lens_scopes.scopes.comparisons import Baseline
from lens_scopes.scopes.objectives import DirectionFunction, Explanation, Objective
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.points import PointsLike
from lens_scopes.scopes.readouts import Norm, Readout
from lens_scopes.scopes.registry import as_baseline


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
        return _by_baseline(model, baseline, PromptPosition.read(model, prompt, position, target), progress)
    resolved = ResolvedSpec.read(model, objective, layers, sites, through, readout, memory, points, products, at)
    resolved.objective.check_target(target)
    place = PromptPosition.read(model, prompt, position, target)
    return resolved.run_all([place], progress)[0]


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


def _by_baseline(model: Any, baseline: Baseline, place: PromptPosition, progress: Progress | None) -> Attribution:
    """The result of an explanation that takes no gradient."""
    resolved = ResolvedSpec.read(model, None, False, (), None, "norm")
    batch = Batch.of(model, [place.token_ids])
    with torch.no_grad():
        states = final_states(model, batch)
    check_finite(model, states, batch)
    state = resolved.checked_states(states, [place.target])[0]
    length = len(place.token_ids)
    explained = baseline.prepare(model)
    scores = explained.scores(model, place.token_ids, place.prompt.special[:length], state).cpu()
    if progress is not None:
        progress(1, 1)
    return Attribution(
        **resolved.record(place.prompt, place.position, state, explained),
        target=resolved.predicted_target(state, explained),
        scores=scores,
        contract=explained.contract(explained.describe(resolved.label, state), place.position, length),
        settings=resolved.settings(place.position, explained, readout=None, points=None, at=[], sites=[EMBEDDING]),
        warnings=score_warnings(scores, None, []),
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
    resolved = ResolvedSpec.read(model, objective, layers, sites, through, readout, memory, products=products, at=at)
    resolved.objective.check_target(target)
    places = [PromptPosition.read(model, prompt, position, target) for prompt in prompts]
    return resolved.run_all(places, None, progress)
