"""Everything that can be asked for by name: scopes, comparison methods, readouts, score sites, points, lenses, rules.

The command line, the HTTP schema, the page, the evaluation and the views take names, settings, units and wording from
here, and help from here and from `options`. This module imports nothing heavy, so that `--help` is quick; the class of
an entry is imported when it is first used. A package of its own adds entries under the entry point group
`lens_scopes.scopes`:

    [project.entry-points."lens_scopes.scopes"]
    my-scope = "my_package:ENTRY"      # a ScopeEntry
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import ObjectiveError, find_entry

if TYPE_CHECKING:
    from lens_scopes.scopes.objectives import DirectionFunction, Explanation
    from lens_scopes.scopes.spec import Spec

ENTRY_POINTS = "lens_scopes.scopes"
DEFAULT_SCOPE = "semantic"


@dataclass(frozen=True)
class ScopeEntry:
    """One name that `attribute` can be asked for.

    Attributes:
        name: as written on the command line.
        home: the class, as "module:Class", or a function that makes an objective, a comparison method or a Spec.
        explains: what is explained, in a few words, for help texts.
        settings: the options that set something of it, each with the argument of the class that it sets. The first is
            the one that a name with a value sets: "fisher@8".
        required: the options that have no default.
        takes_gradient: False for comparison methods, which have no site, path, readout or points.
        quantity: what a score is a change of, in words that a sentence can hold.
        unit: of that quantity.
        score_site: the entry of SCORE_SITES where its scores are read; empty for the embedding, which leaves the site
            to choose.
        is_divergence: whether a score is a Kullback–Leibler divergence of the prediction, to second order.
    """

    name: str
    home: str | Callable[..., Any]
    explains: str
    settings: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    takes_gradient: bool = True
    quantity: str = "the quantity explained"
    unit: str = ""
    score_site: str = ""
    is_divergence: bool = False

    @property
    def is_preset(self) -> bool:
        """Whether it names a Spec, whose site and readout are chosen with it."""
        return bool(self.score_site)

    @property
    def main_setting(self) -> str | None:
        """The option that a name with a value sets, as the rank in "fisher@8"; None where there is none."""
        return next(iter(self.settings), None)

    def build(self, **settings: Any) -> Explanation | Spec:
        """What `attribute` takes, with these settings.

        Raises:
            ObjectiveError: for settings it does not have, and for required ones that are missing.
        """
        for name in settings:
            if name not in self.settings:
                owners = [entry.name for entry in scope_entries().values() if name in entry.settings]
                belongs = f"; it belongs to {', '.join(owners)}" if owners else ""
                raise ObjectiveError(f"scope {self.name!r} has no {name}{belongs}.")
        missing = [name for name in self.required if name not in settings]
        if missing:
            raise ObjectiveError(f"scope {self.name!r} needs {' and '.join(self.required)}; {missing[0]} is missing.")
        make = self.home if callable(self.home) else resolve_name(self.home)
        explanation = make(**{self.settings[name]: value for name, value in settings.items()})
        if not self.is_preset:
            return explanation
        # By name: importing it here would load torch for every `--help`.
        read = resolve_name("lens_scopes.scopes.spec:Spec.read")
        return read(explanation, score_site=self.score_site)


_OBJECTIVES, _COMPARISONS = "lens_scopes.scopes.objectives", "lens_scopes.scopes.comparisons"
_FISHER = {"rank": "rank", "samples": "samples", "exact": "exact", "seed": "seed"}
_SEGMENTS = {"by": "by", "within": "within"}
_BUILT_IN = (
    ScopeEntry(
        "semantic",
        f"{_OBJECTIVES}:Semantic",
        "the logit of one token",
        {"target": "token"},
        quantity="the logit of the target token",
        unit="logits",
    ),
    ScopeEntry(
        "logprob",
        f"{_OBJECTIVES}:LogProb",
        "the log-probability of one token",
        {"target": "token"},
        quantity="the log-probability of the target token (nats)",
        unit="nats",
    ),
    ScopeEntry(
        "logit-diff",
        f"{_OBJECTIVES}:LogitDiff",
        "the difference between two logits",
        {"target": "token", "other": "other"},
        required=("target", "other"),
        quantity="the difference between the two logits",
        unit="logits",
    ),
    ScopeEntry(
        "logprob-diff",
        f"{_OBJECTIVES}:LogProbDiff",
        "the log-probability of one answer minus another's",
        {"answer": "answer", "other": "other"},
        required=("answer", "other"),
        quantity="the difference between the two answers' log-probabilities (nats)",
        unit="nats",
    ),
    ScopeEntry(
        "temperature",
        f"{_OBJECTIVES}:Temperature",
        "the confidence of the prediction",
        quantity="β = ‖y‖, the inverse effective temperature of the prediction",
        unit="units of β",
    ),
    ScopeEntry(
        "entropy",
        f"{_OBJECTIVES}:Entropy",
        "the entropy of the prediction",
        quantity="the entropy of the prediction (nats)",
        unit="nats",
    ),
    ScopeEntry(
        "fisher",
        f"{_OBJECTIVES}:Fisher",
        "the whole distribution",
        _FISHER,
        quantity="the whole predicted distribution",
        unit="nats",
        is_divergence=True,
    ),
    ScopeEntry(
        "fisher-at-values",
        f"{_OBJECTIVES}:Fisher",
        "the whole distribution, read at the attention values",
        _FISHER,
        quantity="the whole predicted distribution",
        unit="nats",
        score_site="values",
        is_divergence=True,
    ),
    ScopeEntry(
        "balanced-values",
        f"{_COMPARISONS}.balanced_values:BalancedValues",
        "the whole distribution, read twice at the attention values",
        settings={"rank": "rank"},
        takes_gradient=False,
    ),
    ScopeEntry(
        "leave-one-out",
        f"{_COMPARISONS}.leave_one_out:LeaveOneOut",
        "the prediction without each token",
        settings={"measure": "measure", "ablation": "ablation", "draws": "draws", "seed": "seed", **_SEGMENTS},
        takes_gradient=False,
    ),
    ScopeEntry(
        "context-cite",
        f"{_COMPARISONS}.context_cite:ContextCite",
        "what an answer rests on, by random ablations",
        settings={"ablations": "ablations", "ablation": "ablation", "seed": "seed", **_SEGMENTS},
        takes_gradient=False,
    ),
    ScopeEntry(
        "faded-attention",
        f"{_COMPARISONS}.faded_attention:FadedAttention",
        "what an answer rests on, by fading the attention to its segments",
        settings={**_SEGMENTS},
        takes_gradient=False,
    ),
    ScopeEntry(
        "attention-rollout",
        f"{_COMPARISONS}.attention:AttentionRollout",
        "attention, layer by layer",
        takes_gradient=False,
    ),
    ScopeEntry(
        "value-attention",
        f"{_COMPARISONS}.attention:ValueWeightedAttention",
        "attention times values",
        takes_gradient=False,
    ),
    ScopeEntry(
        "kernel-shap",
        f"{_COMPARISONS}.kernel_shap:KernelShap",
        "Shapley values of the tokens, by random ablations",
        settings={"ablations": "ablations", "ablation": "ablation", "seed": "seed", **_SEGMENTS},
        takes_gradient=False,
    ),
    ScopeEntry(
        "grad-ellm",
        f"{_COMPARISONS}.attention:GradEllm",
        "a logit, by attention times values times gradient",
        takes_gradient=False,
    ),
    ScopeEntry("closeness", f"{_COMPARISONS}.trivial:Closeness", "nothing: closeness to the end", takes_gradient=False),
    ScopeEntry(
        "embedding-norm",
        f"{_COMPARISONS}.trivial:EmbeddingNorm",
        "nothing: the embedding's size",
        takes_gradient=False,
    ),
    ScopeEntry(
        "surprisal",
        f"{_COMPARISONS}.trivial:Surprisal",
        "the token itself, given those before it",
        takes_gradient=False,
    ),
    ScopeEntry(
        "random",
        f"{_COMPARISONS}.trivial:RandomScores",
        "nothing: random scores",
        settings={"seed": "seed"},
        takes_gradient=False,
    ),
)
_own_entries: dict[str, ScopeEntry] = {}


@dataclass(frozen=True)
class ChoiceEntry:
    """One name of a readout, of points or of a lens, as text: name, class and one-line help."""

    name: str
    home: str
    explains: str


READOUTS = {
    entry.name: entry
    for entry in (
        ChoiceEntry("norm", "lens_scopes.scopes.readouts:Norm", "largest effect of a unit change along each direction"),
        ChoiceEntry(
            "dot",
            "lens_scopes.scopes.readouts:Dot",
            "signed effect of the value against zero, the mean (dot-mean), another prompt of as many tokens "
            '(dot-"TEXT", dot-#ID#ID…) or the path\'s start',
        ),
        ChoiceEntry("product", "lens_scopes.scopes.readouts:Product", "norm of gradient × value, as for dot"),
        ChoiceEntry("relative", "lens_scopes.scopes.readouts:Relative", "as norm, for a change as large as the value"),
    )
}


@dataclass(frozen=True)
class ScoreSiteEntry:
    """One name of a place where tokens' scores are read.

    Attributes:
        name: as text.
        site: the activation of every layer, whose parts are added up.
        readout: how its gradients become scores, unless another readout is chosen.
        explains: what is there, in a few words.
    """

    name: str
    site: str
    readout: str
    explains: str


SCORE_SITES = {
    entry.name: entry
    for entry in (
        ScoreSiteEntry("values", "hook_v", "relative", "the attention values of every layer"),
        ScoreSiteEntry("keys", "hook_k", "relative", "the attention keys of every layer"),
        ScoreSiteEntry("residuals", "hook_resid_pre", "relative", "the residual stream before every layer"),
    )
}
POINTS = {
    entry.name: entry
    for entry in (
        ChoiceEntry(
            "path",
            "lens_scopes.scopes.points:StraightPath",
            "a straight path to the prompt from zero, or path-START: mean, bos, eos, pad, #ID, a quoted token; "
            "special tokens fixed where -held follows (with dot: Integrated Gradients)",
        ),
        ChoiceEntry("noise", "lens_scopes.scopes.points:Noise", "noise around the prompt (SmoothGrad)"),
    )
}
LENSES = {
    entry.name: entry
    for entry in (
        ChoiceEntry("logit", "lens_scopes.scopes.lens:LogitLens", "the model's own final norm and unembedding"),
    )
}
FREEZABLE = {"patterns": "attention patterns", "norms": "normalisation scales", "gates": "MLP activations"}
RULES = {
    "half-av": "half the gradient through the product of attention patterns and values",
    "half-qk": "half the gradient through the product of queries and keys",
    "half-gate": "half the gradient through the product of an MLP's gate and what it gates",
    "identity": "act(x)/x for the slope of an activation",
    "softmax": "the slope of the attention's softmax at temperature {temperature}",
}
"""Single rules on the backward pass, beside what can be held constant, each with what it puts in place of the model's
derivative. `softmax` takes a temperature, as softmax@2."""


@dataclass(frozen=True)
class RuleSet:
    """Rules on the backward pass that a paper uses together.

    Attributes:
        name: as written on the command line.
        title: what the paper calls its method.
        rules: names of FREEZABLE and RULES.
        source: where they come from.
    """

    name: str
    title: str
    rules: tuple[str, ...]
    source: str

    @property
    def explains(self) -> str:
        """One line for help texts."""
        return f"the rules of {self.title} ({self.source}): {', '.join(self.rules)}"


def rule_choices() -> dict[str, str]:
    """What rules can be chosen by one name, each with one line of help: sets, then single ones that `freeze` lacks."""
    return {name: entry.explains for name, entry in RULE_SETS.items()} | {
        name: words.format(temperature="T") + (" (softmax@T; 2 unless given)" if "{" in words else "")
        for name, words in RULES.items()
    }


RULE_SETS = {
    entry.name: entry
    for entry in (
        RuleSet("attnlrp", "AttnLRP", ("norms", "half-av", "half-qk", "half-gate", "identity"), "arXiv:2402.05602"),
        RuleSet("gim", "GIM", ("norms", "half-av", "half-qk", "half-gate", "softmax@2"), "arXiv:2505.17630"),
        RuleSet("relp", "RelP", ("norms", "patterns", "half-gate", "identity"), "arXiv:2508.21258"),
    )
}
MATMUL_DTYPES = ("bfloat16",)


def is_rule(name: str) -> bool:
    """Whether a text names a set of rules or a single one; a temperature may be wrong."""
    return name in RULE_SETS or name.partition("@")[0] in RULES


def scope_entries() -> dict[str, ScopeEntry]:
    """All entries by name: built in, from installed packages, and registered in this process."""
    return {entry.name: entry for entry in (*_BUILT_IN, *_plugin_entries())} | _own_entries


def scope_names(*, takes_gradient: bool | None = None) -> list[str]:
    """The names of all entries, or of those that take a gradient or do not."""
    return [entry.name for entry in scope_entries().values() if takes_gradient in (None, entry.takes_gradient)]


UNKNOWN = ScopeEntry("custom", "", "a user-defined function")


def entry_of_result(scope: str) -> ScopeEntry:
    """The entry of the scope that a result names; UNKNOWN where it has none, as for a function of one's own."""
    return scope_entries().get(scope, UNKNOWN)


def scope_entry(name: str) -> ScopeEntry:
    """The entry of that name.

    Raises:
        ObjectiveError: for an unknown name, with a near one.
    """
    return find_entry(name, scope_entries(), "scope", ObjectiveError)


def register_objective(name: str, function: DirectionFunction, explains: str = "a user-defined function") -> None:
    """Makes a user's own objective known by name, in this process.

    Args:
        name: as `attribute(..., name)` and `--scope` will take it.
        function: takes y [d_model] and logits [d_vocab] and returns directions, as for `Custom`.
        explains: what is explained, in a few words.

    Raises:
        ObjectiveError: when the name is already taken, or none that a line of text can hold.

    Example:
        >>> ls.register_objective("example-confidence", lambda y, logits: y / y.norm())
        >>> ls.attribute(model, "The capital of France is", "example-confidence").scope
        'custom'
    """
    if not isinstance(name, str) or not callable(function) or not _is_plain(explains):
        raise ObjectiveError(
            "register_objective takes a name, a function of (y, logits), and what it explains as text."
        )
    if not _NAME.fullmatch(name):
        raise ObjectiveError(
            f"{name[:60]!r} is no name of an objective: up to 60 letters, digits and . _ -, a letter first."
        )
    if name in scope_entries():
        raise ObjectiveError(f"an objective named {name!r} exists already; choose another name.")
    _own_entries[name] = ScopeEntry(name, lambda: resolve_name(f"{_OBJECTIVES}:Custom")(function, name), explains)


_NAME = re.compile(r"[^\W\d_][\w.-]{0,59}")


def _is_plain(text: object) -> bool:
    return isinstance(text, str) and not any("\ud800" <= letter <= "\udfff" for letter in text)


@cache
def _plugin_entries() -> tuple[ScopeEntry, ...]:
    return tuple(point.load() for point in metadata.entry_points(group=ENTRY_POINTS))
