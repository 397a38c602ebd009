"""The same scope through all, early, middle and late layers of one translation prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import lens_scopes as ls
from lens_scopes.errors import PromptError
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    STYLE,
    add_header,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.attribution import number, title
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMPT = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: Fisher Scope of rank 1 through each third of the layers."""
    n_layers = model.cfg.n_layers
    third = n_layers // 3
    paths: dict[str, Any] = {"all layers": None}
    for name, first in (("early", 0), ("middle", third), ("late", 2 * third)):
        last = n_layers - 1 if name == "late" else first + third - 1
        paths[f"{name}, {first}–{last}"] = ls.Layers(first, last)
    if quick:
        paths = dict(list(paths.items())[:2])
    strips = {label: ls.attribute(model, PROMPT, ls.Fisher(), through=path) for label, path in paths.items()}
    findings = {
        "strips": {label: att.to_dict() for label, att in strips.items()},
        "top": {label: att.top(5) for label, att in strips.items()},
    }
    return {"prompt": PROMPT, "scope": "Fisher(rank=1)", "random": None}, findings


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The strips under each other."""
    strips = {label: ls.Attribution.from_dict(plain) for label, plain in record["findings"]["strips"].items()}
    return {"through_layers": lambda: strips_figure(strips)}


def strips_figure(attributions: Mapping[str, ls.Attribution], *, width: float = COLUMN_INCHES) -> Figure:
    """One strip a label: the scores of each attribution relative to its own largest magnitude, which stands beside it.

    Args:
        attributions: label → attribution, all of the same tokens.
        width: in inches.

    Raises:
        PromptError: for no attribution, or attributions of different tokens.
    """
    import matplotlib

    labels, results = list(attributions), list(attributions.values())
    if not results:
        raise PromptError("strips need at least one attribution.")
    for label, result in attributions.items():
        if result.token_ids != results[0].token_ids:
            raise PromptError(f"the strip {label!r} is of other tokens than {labels[0]!r}; explain the same prompt.")
    # Scopes have different units: each strip is drawn relative to its own largest magnitude.
    scales = [scale_of(result.scores.tolist(), result.special) for result in results]
    relative = [
        [
            math.nan if special or not scale.bound or not math.isfinite(score) else score / scale.bound
            for score, special in zip(result.scores.tolist(), result.special, strict=True)
        ]
        for result, scale in zip(results, scales, strict=True)
    ]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 1.35 + 0.26 * len(results))
        axes = figure.add_subplot(label="strips")
        image = heat_map(axes, relative, signed=any(scale.signed for scale in scales))
        axes.set_yticks(range(len(labels)), [drawable(label) for label in labels])
        tokens = [drawable(shorten(printable_token(token), 14)) for token in results[0].tokens]
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, parse_math=False, fontfamily=families())
        axes.tick_params(length=0)
        # That magnitude stands on the right, so that no information is lost.
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(len(labels)), [number(scale.bound) for scale in scales])
        beside.tick_params(length=0)
        beside.set_ylabel("largest magnitude")
        beside.spines[:].set_visible(False)
        scale_bar(figure, axes, image, "score relative to the largest magnitude of its strip")
        add_header(figure, (title(results[0]),))
    return figure


def summary(record: dict[str, Any]) -> list[str]:
    """The leading tokens of each strip."""
    return [
        f"{label:15} " + ", ".join(f"{token!r} {score:.3g}" for _, token, score in top[:4])
        for label, top in record["findings"]["top"].items()
    ]
