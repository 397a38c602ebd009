"""What results say of how they were made: records of choices and versions, and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from functools import cache, wraps
from importlib import metadata
from typing import Any, TypeVar, cast

from torch import Tensor

from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.alterations import HOOKS, hold_alterations
from lens_scopes.errors import LensScopesError, ModelError, NumericsError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.points import Points
from lens_scopes.scopes.readouts import Readout

_Function = TypeVar("_Function", bound=Callable[..., Any])

_NOISY = 0.2  # a standard error above this share of the scores is worth a warning


def choice_record(choice: Readout | Points) -> dict[str, Any]:
    """The name and settings of a readout or of points, as plain values; a user's own need not be a dataclass."""
    fields = asdict(choice) if is_dataclass(choice) and not isinstance(choice, type) else {}
    return {"name": choice.name, **fields}


def readout_record(readout: Readout, other: Prompt | None, length: int) -> dict[str, Any]:
    """As `choice_record`, with the tokens of the other prompt that stand beside the prompt's first `length`."""
    beside = other if readout.from_baseline else None
    return choice_record(readout) | ({} if beside is None else {"baseline_tokens": list(beside.tokens[:length])})


def record_alterations(function: _Function) -> _Function:
    """A function of a model whose results say what acts on the model beside its weights, in warnings and contract.

    Its errors name a hook of the caller's where one may be the cause.
    """

    @wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        try:
            model = ScopedModel.of(arguments[0] if arguments else named["model"])
        except (KeyError, LensScopesError):
            return function(*arguments, **named)  # which says what is wrong
        with hold_alterations(model) as alterations:
            hooks = next((item for item in alterations if item.startswith(HOOKS)), None)
            try:
                result = function(*arguments, **named)
            except NumericsError as error:
                if hooks is None:
                    raise
                raise NumericsError(f"{error} {_likely(hooks)}") from error
            except RuntimeError as error:
                if hooks is None or "does not require grad" not in str(error):
                    raise
                raise ModelError(f"no gradient reaches what is explained. {_likely(hooks)}") from error
        if isinstance(result, list):
            return [_with_alterations(one, alterations) for one in result]
        return _with_alterations(result, alterations)

    return cast(_Function, wrapper)


def _likely(hooks: str) -> str:
    return (
        f"Likely cause: {hooks}; one that detaches or zeroes an activation does this. model.reset_hooks() removes them."
    )


def _with_alterations(result: Any, alterations: list[str]) -> Any:
    """The result with what acts on its model in its warnings, its contract (as held fixed) and its model's record."""
    if not alterations:
        return result
    sentence = "; ".join(alterations)
    zeros = any(_ZERO in warning for warning in result.warnings)
    likely = _likely(sentence) if zeros and sentence.startswith(HOOKS) else ""
    warnings = [warning for warning in result.warnings if not warning.startswith(_ACTS)]  # of what it was made from
    changes: dict[str, Any] = {
        "warnings": [*warnings, f"{_ACTS}{sentence}. {likely}".strip()],
        "model": result.model | {"altered": alterations},
    }
    contract = getattr(result, "contract", None)
    if contract and not contract["held fixed"].endswith(sentence):
        changes["contract"] = contract | {"held fixed": f"{contract['held fixed']}; {sentence}"}
    return replace(result, **changes)


_ACTS = "the numbers are those of the model with "
_ZERO = "score is zero"


def score_warnings(scores: Tensor, standard_error: Tensor | None, cut_sites: Sequence[str]) -> list[str]:
    """What is doubtful of scores: sites that nothing flows back to, zeros alone, a large standard error."""
    warnings = []
    if cut_sites:
        names = cut_sites[0] if len(cut_sites) == 1 else f"{cut_sites[0]} and {len(cut_sites) - 1} more"
        warnings.append(f"nothing flows back to {names}, which the path or a hook holds fixed: its scores are zero.")
    if not bool(scores.any()):
        warnings.append("every score is zero: at this position nothing in the prompt moves the output explained.")
    if standard_error is not None:
        share = float(standard_error.square().sum().sqrt() / scores.square().sum().sqrt().clamp_min(1e-300))
        if share > _NOISY:
            warnings.append(f"the standard error is {share:.0%} of the scores; ask for more samples.")
    return warnings


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in ("lens-scopes", "torch", "transformer-lens", "transformers"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
