"""The choices of a Spec as options: their names, help and values as text, on a command line, in JSON and on the page.

This module imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lens_scopes.engine.ablations import ABLATIONS
from lens_scopes.engine.sites import residual_name
from lens_scopes.errors import LARGEST_SEED, ObjectiveError
from lens_scopes.prompts.groups import UNITS
from lens_scopes.prompts.spans import read_span, write_span
from lens_scopes.scopes.registry import (
    FREEZABLE,
    LENSES,
    MATMUL_DTYPES,
    POINTS,
    READOUTS,
    SCORE_SITES,
    rule_choices,
    scope_names,
)
from lens_scopes.scopes.text.forms import (
    ELIGIBLE,
    check_eligible,
    frozen_part,
    path_form,
    points_form,
    readout_form,
    single_rules,
)
from lens_scopes.scopes.text.values import read_text_or_ids, read_token, read_whole_prompt, write_whole_prompt

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True)
class Option:
    """One choice as text.

    Attributes:
        name: as in JSON; `--name` on the command line.
        panel: the group it stands in.
        help: one line, for the command line, the HTTP schema and the page.
        metavar: the form of its value.
        kind: str or int, and bool for a switch.
        many: whether it may be repeated.
        minimum, maximum: bounds that a server sets on an integer.
        longest: the most characters that a server takes of a text.
        read: what makes a value of text; None where the text is the value.
        check: what refuses a text of a wrong form, before the value is made by anything heavy.
    """

    name: str
    panel: str
    help: str
    metavar: str | None = None
    kind: type = str
    many: bool = False
    minimum: int | None = None
    maximum: int | None = None
    longest: int = 200
    read: Callable[[Any], Any] | None = None
    check: Callable[[Any], object] | None = None

    def value(self, text: Any) -> Any:
        """The value that the text stands for; a value of its kind stands for itself.

        Raises:
            LensScopesError: for text that is none.
        """
        if self.many:
            texts = [text] if isinstance(text, str) else list(text)
            return [self._check_text(one) for one in texts]
        if self.read is not None:
            return self.read(text)
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[str(text).lower()]
            if self.kind is int and isinstance(text, str) and not _INTEGER.fullmatch(text):
                raise ValueError
            return self._check_text(self.kind(text))
        except (KeyError, ValueError):
            expected = "true or false" if self.kind is bool else "an integer"
            raise ObjectiveError(f"{self.name} is {expected}; got {text!r}.") from None

    def _check_text(self, text: Any) -> Any:
        if self.check is not None:
            self.check(text)
        return text


def _read_other(text: Any) -> str | int | tuple[int, ...]:
    """A token, or an answer of several tokens."""
    if not isinstance(text, str):
        return text if isinstance(text, int) else tuple(text)
    read = read_text_or_ids(text)
    return read[0] if isinstance(read, tuple) and len(read) == 1 else read


def _read_rank(text: str | int) -> int | str:
    if text == "trace":
        return text
    try:
        if isinstance(text, str) and not _INTEGER.fullmatch(text):
            raise ValueError
        return int(text)
    except ValueError:
        raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {text!r}.') from None


SCOPE_OPTIONS = (
    *("scope", "target", "other", "rank", "samples", "exact", "seed"),
    *("measure", "ablation", "ablations", "draws", "by", "within"),
)
TOKEN_OPTIONS = ("target", "other", "answer")
WHICH_ANSWER = ("answer", "generate")
ANSWER_OPTIONS = (*WHICH_ANSWER, "eligible")
SITE_OPTIONS = ("layers", "layer_site", "lens", "site", "score_site", "readout", "points", "against")
CELL_OPTIONS = ("against", "points", "layer_site")
MATRIX_OPTIONS = ("readout", "against")
SERIES_OPTIONS = ("score_site", "readout", "points")
PATH_OPTIONS = ("through", "freeze", "rules")
LIMIT_OPTIONS = ("memory", "matmul_dtype")
SHARED_OPTIONS = frozenset((*ANSWER_OPTIONS, *SITE_OPTIONS, *PATH_OPTIONS, *LIMIT_OPTIONS))
OBJECTIVE_PANEL, SITE_PANEL, MODEL_PANEL = "Objective", "Sites, readout and path", "Model"
_LONGEST_TEXT = 4000


def options() -> dict[str, Option]:
    """All options by name. Names of scopes are those known now."""
    return {
        option.name: option
        for option in (_scope_option(), *_OBJECTIVE_OPTIONS, *_SITE_AND_PATH_OPTIONS, *_LIMIT_OPTIONS)
    }


def _scope_option() -> Option:
    scopes = ", ".join(scope_names(takes_gradient=True))
    comparisons = ", ".join(scope_names(takes_gradient=False))
    return Option(
        "scope",
        OBJECTIVE_PANEL,
        f"What to explain: {scopes}. Comparison methods, which have no readout: {comparisons}. A value after @ "
        "and choices after + may follow: fisher@8+dot-mean.",
        "NAME",
    )


_PROMPT_ABLATIONS = ", ".join(
    name for name, ablation in ABLATIONS.items() if ablation.corpus != "required" and not ablation.other_prompt
)
_RANDOM_NAMES = ", ".join(name for name, ablation in ABLATIONS.items() if ablation.random)
_OBJECTIVE_OPTIONS = (
    Option(
        "target",
        OBJECTIVE_PANEL,
        "The next token explained by semantic, logprob and logit-diff: its exact string, leading space included "
        "(' Paris'), or its id ('#9079'). By default the token that follows in the text, else the model's top "
        "token.",
        "TOKEN",
        read=read_token,
    ),
    Option(
        "other",
        OBJECTIVE_PANEL,
        "What the target or the answer is contrasted with: a token for logit-diff, an answer for logprob-diff.",
        "TOKEN|TEXT",
        longest=_LONGEST_TEXT,
        read=_read_other,
    ),
    Option(
        "answer",
        OBJECTIVE_PANEL,
        "Explain this whole answer after the prompt, the objective summed over its tokens: a text, leading space "
        "included, or ids (#12#34).",
        "TEXT",
        longest=_LONGEST_TEXT,
        read=read_text_or_ids,
    ),
    Option(
        "generate",
        OBJECTIVE_PANEL,
        "Explain an answer of N tokens that the model generates, each the most probable one.",
        "N",
        kind=int,
        minimum=1,
        maximum=128,
    ),
    Option(
        "eligible",
        OBJECTIVE_PANEL,
        "Which tokens get scores where an answer is explained: those of the prompt (the default), or all, the "
        "answer's own earlier tokens included.",
        "|".join(ELIGIBLE),
        check=check_eligible,
    ),
    Option(
        "rank",
        OBJECTIVE_PANEL,
        "Leading terms of fisher, or trace for all of it. By default 1.",
        "N|trace",
        read=_read_rank,
    ),
    Option(
        "samples",
        OBJECTIVE_PANEL,
        "Random directions for --rank trace, or for an answer, which takes as many passes at any length; 0 is "
        "exact. By default exact, but 16 for the trace of an answer or of a model with d_model above 128.",
        kind=int,
        maximum=256,
    ),
    Option(
        "exact",
        OBJECTIVE_PANEL,
        "Leading directions of --rank trace to compute exactly. By default 16, and 0 for an answer.",
        kind=int,
        maximum=256,
    ),
    Option("seed", OBJECTIVE_PANEL, "Random seed. By default 0.", kind=int, minimum=0, maximum=LARGEST_SEED),
    Option(
        "measure",
        OBJECTIVE_PANEL,
        "What leave-one-out measures. By default kl, the change of the whole distribution.",
        "kl|logit|logprob",
    ),
    Option(
        "ablation",
        OBJECTIVE_PANEL,
        f"What leave-one-out replaces a token with: {_PROMPT_ABLATIONS}, or the tokens of another prompt of as many "
        "tokens, given as its text, its ids (#2#651) or a chat's JSON. By default zero, remove for context-cite and "
        "mean for kernel-shap.",
        "NAME|TEXT",
        longest=_LONGEST_TEXT,
        read=read_whole_prompt,
    ),
    Option(
        "ablations",
        OBJECTIVE_PANEL,
        "How many random ablations context-cite and kernel-shap run. By default 64.",
        kind=int,
        minimum=2,
        maximum=1024,
    ),
    Option(
        "draws",
        OBJECTIVE_PANEL,
        f"Random replacements averaged by {_RANDOM_NAMES}. By default 4.",
        kind=int,
        maximum=64,
    ),
    Option(
        "by",
        OBJECTIVE_PANEL,
        "What leave-one-out, kernel-shap, context-cite and faded-attention change as a whole, its effect divided "
        f"evenly over its tokens: {', '.join(UNITS[:-1])} or {UNITS[-1]}. By default token, and sentence for the last "
        "two.",
        "UNIT",
    ),
    Option(
        "within",
        OBJECTIVE_PANEL,
        "The part of the prompt whose tokens leave-one-out, kernel-shap, context-cite and faded-attention change, "
        "while others stay in place: a text, the name of a chat turn, or START:STOP in tokens. By default all of it.",
        "TEXT|START:STOP",
        longest=_LONGEST_TEXT,
        read=read_span,
    ),
)
_SITE_AND_PATH_OPTIONS = (
    Option("layers", SITE_PANEL, "Also read influence at every layer's residual stream.", kind=bool),
    Option(
        "layer_site",
        SITE_PANEL,
        "The residual stream read at each layer: resid_pre, resid_mid or resid_post; asks for layers. By default "
        "resid_pre.",
        "NAME",
        check=residual_name,
    ),
    Option(
        "lens",
        SITE_PANEL,
        "Also read each cell of the layers map as tokens, by "
        + ", ".join(f"{entry.name} ({entry.explains}; {entry.name}@10 keeps ten tokens)" for entry in LENSES.values())
        + " or by a fitted JacobianLens of TransformerLens, given as its file; asks for layers.",
        "logit[@N]|FILE.pt",
    ),
    Option(
        "site",
        SITE_PANEL,
        "Another activation to read: hook_z (every layer) or blocks.3.attn.hook_z.",
        "NAME",
        many=True,
    ),
    Option(
        "score_site",
        SITE_PANEL,
        "Where the tokens' scores are read, for any scope: the embedding by default; "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in SCORE_SITES.values())
        + " (these by relative unless a readout is given); or any activation, its layers added up, such as hook_z.",
        "|".join((*SCORE_SITES, "NAME")),
    ),
    Option(
        "readout",
        SITE_PANEL,
        "How a gradient becomes a score. "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in READOUTS.values())
        + ". By default norm.",
        "|".join(READOUTS),
        longest=_LONGEST_TEXT,
        check=readout_form,
    ),
    Option(
        "points",
        SITE_PANEL,
        "Average gradients over N points: "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in POINTS.values())
        + ". By default the gradient at the prompt alone.",
        "path[-START][-held]|noise[@N]",
        longest=_LONGEST_TEXT,
        check=points_form,
    ),
    Option(
        "against",
        SITE_PANEL,
        "Measure from another prompt of as many tokens, given as its text, its ids (#2#651) or a chat's JSON "
        '([{"role": …}]), as by the readout dot-"TEXT": attribution patching. With points, a path starts at it.',
        "TEXT",
        longest=_LONGEST_TEXT,
        read=read_whole_prompt,
    ),
    Option(
        "through",
        SITE_PANEL,
        'Components that carry gradient, the rest held fixed: "5-9" (layers), "L3H2,L5H0" (heads), "attention & 5-9", '
        '"mlp", "skip". By default all.',
        "PATH",
        check=path_form,
    ),
    Option("freeze", SITE_PANEL, f"Hold constant: {', '.join(FREEZABLE)}.", "PART", many=True, check=frozen_part),
    Option(
        "rules",
        SITE_PANEL,
        "Put rules in place of the model's derivative on the backward pass. "
        + "; ".join(f"{name}: {words}" for name, words in rule_choices().items())
        + f". What can be held constant is a rule too: {', '.join(FREEZABLE)}.",
        "NAME",
        many=True,
        check=lambda rule: single_rules([rule]),
    ),
)
_LIMIT_OPTIONS = (
    Option(
        "memory",
        MODEL_PANEL,
        "Memory limit beyond the model's weights, such as 4GB; the work is split to stay below it. By default a share "
        "of the free memory.",
        "SIZE",
    ),
    Option(
        "matmul_dtype",
        MODEL_PANEL,
        "Round the factors of the body's matrix products to this dtype: faster, with almost the same ranking. By "
        "default the model's own.",
        "|".join(MATMUL_DTYPES),
    ),
)


def option_text(option: str, value: Any) -> Any:
    """The text of a setting's value, which the option reads."""
    if option == "within":
        return write_span(value)
    if option in TOKEN_OPTIONS or isinstance(value, tuple):
        return write_whole_prompt(value)
    return value if isinstance(value, int) else str(value)
