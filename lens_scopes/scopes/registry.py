"""Everything that can be asked for by name: scopes, comparison methods, readouts, points, and the options they take.

The command line, the HTTP schema, the page, the evaluation and the views take names, settings, help, units and wording
from here. This module imports nothing heavy, so that `--help` is quick; the class of an entry is imported when it is
first used. A package of its own adds entries under the entry point group `lens_scopes.scopes`:

    [project.entry-points."lens_scopes.scopes"]
    my-scope = "my_package:ENTRY"      # a ScopeEntry
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from lens_scopes.engine.ablations import ABLATIONS
from lens_scopes.errors import LARGEST_SEED, ObjectiveError, entry_named
from lens_scopes.prompts.chat import Message, as_messages, read_messages, write_messages
from lens_scopes.prompts.groups import UNITS
from lens_scopes.prompts.spans import read_span

if TYPE_CHECKING:
    from lens_scopes.scopes.objectives import DirectionFunction, Explanation
    from lens_scopes.scopes.spec import Spec

ENTRY_POINTS = "lens_scopes.scopes"
DEFAULT_SCOPE = "semantic"
_TOKEN_ID = re.compile(r"#([0-9]{1,18})")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
IDS_AS_TEXT = r"(?:#[0-9]{1,18})+"


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
_added: dict[str, ScopeEntry] = {}


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


def scope_entries() -> dict[str, ScopeEntry]:
    """All entries by name: built in, from installed packages, and registered in this process."""
    return {entry.name: entry for entry in (*_BUILT_IN, *_installed())} | _added


def scope_names(*, takes_gradient: bool | None = None, with_presets: bool = True) -> list[str]:
    """The names of all entries, or of those that take a gradient or do not; without those that choose sites."""
    return [
        entry.name
        for entry in scope_entries().values()
        if takes_gradient in (None, entry.takes_gradient) and (with_presets or not entry.is_preset)
    ]


UNKNOWN = ScopeEntry("custom", "", "a user-defined function")


def entry_of_result(scope: str) -> ScopeEntry:
    """The entry of the scope that a result names; UNKNOWN where it has none, as for a function of one's own."""
    return scope_entries().get(scope, UNKNOWN)


def scope_entry(name: str) -> ScopeEntry:
    """The entry of that name.

    Raises:
        ObjectiveError: for an unknown name, with a near one.
    """
    return entry_named(name, scope_entries(), "scope", ObjectiveError)


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
    _added[name] = ScopeEntry(name, lambda: resolve_name(f"{_OBJECTIVES}:Custom")(function, name), explains)


_NAME = re.compile(r"[^\W\d_][\w.-]{0,59}")


def _is_plain(text: object) -> bool:
    return isinstance(text, str) and not any("\ud800" <= letter <= "\udfff" for letter in text)


@cache
def _installed() -> tuple[ScopeEntry, ...]:
    return tuple(point.load() for point in metadata.entry_points(group=ENTRY_POINTS))


# Options: the choices of a Spec as text, on a command line, in JSON and on the page


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

    def value(self, text: Any) -> Any:
        """The value that the text stands for; a value of its kind stands for itself.

        Raises:
            ObjectiveError: for text that is none.
        """
        if self.many:
            return [text] if isinstance(text, str) else list(text)
        if self.read is not None:
            return self.read(text)
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[str(text).lower()]
            if self.kind is int and isinstance(text, str) and not _INTEGER.fullmatch(text):
                raise ValueError
            return self.kind(text)
        except (KeyError, ValueError):
            expected = "true or false" if self.kind is bool else "an integer"
            raise ObjectiveError(f"{self.name} is {expected}; got {text!r}.") from None


def read_token(text: str) -> str | int:
    """A token as text: "#123" is the id 123, anything else the token's exact string."""
    match = _TOKEN_ID.fullmatch(text)
    return int(match[1]) if match else text


def write_token(token: str | int) -> str:
    """The text that `read_token` reads."""
    return f"#{token}" if isinstance(token, int) else token


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


def read_text_or_ids(text: Any) -> str | tuple[int, ...]:
    """An answer or a prompt as text: "#12#34" is the ids 12 and 34, anything else the text itself."""
    if not isinstance(text, str):
        return tuple(text)
    return tuple(map(int, text[1:].split("#"))) if re.fullmatch(IDS_AS_TEXT, text) else text


def write_text_or_ids(value: str | int | Sequence[int]) -> str:
    """The text that `read_text_or_ids` reads; of one id, that of its token."""
    if isinstance(value, str | int):
        return write_token(value)
    return "".join(map(write_token, value))


def read_whole_prompt(text: Any) -> str | tuple[int, ...] | tuple[Message, ...]:
    """A prompt as text: `[{"role": "user", "content": "…"}]` is a chat, else as `read_text_or_ids`."""
    return (read_messages(text) if isinstance(text, str) else None) or read_text_or_ids(text)


def write_whole_prompt(value: str | int | Sequence[int | Message]) -> str:
    """The text that `read_whole_prompt` reads."""
    messages = as_messages(value)
    return write_text_or_ids(value) if messages is None else write_messages(messages)  # pyright: ignore[reportArgumentType]


SCOPE_OPTIONS = (
    *("scope", "target", "other", "rank", "samples", "exact", "seed"),
    *("measure", "ablation", "ablations", "draws", "by", "within"),
)
TOKEN_OPTIONS = ("target", "other", "answer")
WHICH_ANSWER = ("answer", "generate")
ANSWER_OPTIONS = (*WHICH_ANSWER, "eligible")
ELIGIBLE = ("prompt", "all")
SITE_OPTIONS = ("layers", "layer_site", "lens", "site", "score_site", "readout", "points", "against")
CELL_OPTIONS = ("against", "points", "layer_site")
MATRIX_OPTIONS = ("readout", "against")
SERIES_OPTIONS = ("score_site", "readout", "points")
PATH_OPTIONS = ("through", "freeze", "rules")
LIMIT_OPTIONS = ("memory", "matmul_dtype")
EXPLAINED, READ, LIMITS = "What is explained", "Where influence is read, and through what", "Model"
_LONGEST_TEXT = 4000


def options() -> dict[str, Option]:
    """All options by name. Names of scopes are those known now."""
    return {option.name: option for option in (_scope_option(), *_EXPLAINED_OPTIONS, *_READ_OPTIONS, *_LIMIT_OPTIONS)}


def _scope_option() -> Option:
    scopes = ", ".join(scope_names(takes_gradient=True))
    comparisons = ", ".join(scope_names(takes_gradient=False))
    return Option(
        "scope",
        EXPLAINED,
        f"What to explain: {scopes}. Comparison methods, which have no readout: {comparisons}. A value after @ "
        "and choices after + may follow: fisher@8+dot-mean.",
        "NAME",
    )


_OF_ONE_PROMPT = ", ".join(
    name for name, ablation in ABLATIONS.items() if ablation.corpus != "required" and not ablation.other_prompt
)
_RANDOM = ", ".join(name for name, ablation in ABLATIONS.items() if ablation.random)
_EXPLAINED_OPTIONS = (
    Option(
        "target",
        EXPLAINED,
        "The next token explained by semantic, logprob and logit-diff: its exact string, leading space included "
        "(' Paris'), or its id ('#9079'). By default the token that follows in the text, else the model's top "
        "token.",
        "TOKEN",
        read=read_token,
    ),
    Option(
        "other",
        EXPLAINED,
        "What the target or the answer is contrasted with: a token for logit-diff, an answer for logprob-diff.",
        "TOKEN|TEXT",
        longest=_LONGEST_TEXT,
        read=_read_other,
    ),
    Option(
        "answer",
        EXPLAINED,
        "Explain this whole answer after the prompt, the objective summed over its tokens: a text, leading space "
        "included, or ids (#12#34).",
        "TEXT",
        longest=_LONGEST_TEXT,
        read=read_text_or_ids,
    ),
    Option(
        "generate",
        EXPLAINED,
        "Explain an answer of N tokens that the model generates, each the most probable one.",
        "N",
        kind=int,
        minimum=1,
        maximum=128,
    ),
    Option(
        "eligible",
        EXPLAINED,
        "Which tokens get scores where an answer is explained: those of the prompt (the default), or all, the "
        "answer's own earlier tokens included.",
        "|".join(ELIGIBLE),
    ),
    Option(
        "rank",
        EXPLAINED,
        "Leading terms of fisher, or trace for all of it. By default 1.",
        "N|trace",
        read=_read_rank,
    ),
    Option(
        "samples",
        EXPLAINED,
        "Random directions for --rank trace, or for an answer, which takes as many passes at any length; 0 is "
        "exact. By default exact, but 16 for the trace of an answer or of a model with d_model above 128.",
        kind=int,
        maximum=256,
    ),
    Option(
        "exact",
        EXPLAINED,
        "Leading directions of --rank trace to compute exactly. By default 16, and 0 for an answer.",
        kind=int,
        maximum=256,
    ),
    Option("seed", EXPLAINED, "Random seed. By default 0.", kind=int, minimum=0, maximum=LARGEST_SEED),
    Option(
        "measure",
        EXPLAINED,
        "What leave-one-out measures. By default kl, the change of the whole distribution.",
        "kl|logit|logprob",
    ),
    Option(
        "ablation",
        EXPLAINED,
        f"What leave-one-out replaces a token with: {_OF_ONE_PROMPT}, or the tokens of another prompt of as many "
        "tokens, given as its text, its ids (#2#651) or a chat's JSON. By default zero, remove for context-cite and "
        "mean for kernel-shap.",
        "NAME|TEXT",
        longest=_LONGEST_TEXT,
        read=read_whole_prompt,
    ),
    Option(
        "ablations",
        EXPLAINED,
        "How many random ablations context-cite and kernel-shap run. By default 64.",
        kind=int,
        minimum=2,
        maximum=1024,
    ),
    Option("draws", EXPLAINED, f"Random replacements averaged by {_RANDOM}. By default 4.", kind=int, maximum=64),
    Option(
        "by",
        EXPLAINED,
        "What leave-one-out, kernel-shap, context-cite and faded-attention change as a whole, its effect divided "
        f"evenly over its tokens: {', '.join(UNITS[:-1])} or {UNITS[-1]}. By default token, and sentence for the last "
        "two.",
        "UNIT",
    ),
    Option(
        "within",
        EXPLAINED,
        "The part of the prompt whose tokens leave-one-out, kernel-shap, context-cite and faded-attention change, "
        "while others stay in place: a text, the name of a chat turn, or START:STOP in tokens. By default all of it.",
        "TEXT|START:STOP",
        longest=_LONGEST_TEXT,
        read=read_span,
    ),
)
_READ_OPTIONS = (
    Option("layers", READ, "Also read influence at every layer's residual stream.", kind=bool),
    Option(
        "layer_site",
        READ,
        "The residual stream read at each layer: resid_pre, resid_mid or resid_post; asks for layers. By default "
        "resid_pre.",
        "NAME",
    ),
    Option(
        "lens",
        READ,
        "Also read each cell of the layers map as tokens, by "
        + ", ".join(f"{entry.name} ({entry.explains}; {entry.name}@10 keeps ten tokens)" for entry in LENSES.values())
        + " or by a fitted JacobianLens of TransformerLens, given as its file; asks for layers.",
        "logit[@N]|FILE.pt",
    ),
    Option(
        "site", READ, "Another activation to read: hook_z (every layer) or blocks.3.attn.hook_z.", "NAME", many=True
    ),
    Option(
        "score_site",
        READ,
        "Where the tokens' scores are read, for any scope: the embedding by default; "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in SCORE_SITES.values())
        + " (these by relative unless a readout is given); or any activation, its layers added up, such as hook_z.",
        "|".join((*SCORE_SITES, "NAME")),
    ),
    Option(
        "readout",
        READ,
        "How a gradient becomes a score. "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in READOUTS.values())
        + ". By default norm.",
        "|".join(READOUTS),
        longest=_LONGEST_TEXT,
    ),
    Option(
        "points",
        READ,
        "Average gradients over N points: "
        + "; ".join(f"{entry.name}: {entry.explains}" for entry in POINTS.values())
        + ". By default the gradient at the prompt alone.",
        "path[-START][-held]|noise[@N]",
        longest=_LONGEST_TEXT,
    ),
    Option(
        "against",
        READ,
        "Measure from another prompt of as many tokens, given as its text, its ids (#2#651) or a chat's JSON "
        '([{"role": …}]), as by the readout dot-"TEXT": attribution patching. With points, a path starts at it.',
        "TEXT",
        longest=_LONGEST_TEXT,
        read=read_whole_prompt,
    ),
    Option(
        "through",
        READ,
        'Components that carry gradient, the rest held fixed: "5-9" (layers), "L3H2,L5H0" (heads), "attention & 5-9", '
        '"mlp", "skip". By default all.',
        "PATH",
    ),
    Option("freeze", READ, f"Hold constant: {', '.join(FREEZABLE)}.", "PART", many=True),
    Option(
        "rules",
        READ,
        "Put rules in place of the model's derivative on the backward pass. "
        + "; ".join(f"{name}: {words}" for name, words in rule_choices().items())
        + f". What can be held constant is a rule too: {', '.join(FREEZABLE)}.",
        "NAME",
        many=True,
    ),
)
_LIMIT_OPTIONS = (
    Option(
        "memory",
        LIMITS,
        "Memory limit beyond the model's weights, such as 4GB; the work is split to stay below it. By default a share "
        "of the free memory.",
        "SIZE",
    ),
    Option(
        "matmul_dtype",
        LIMITS,
        "Round the factors of the body's matrix products to this dtype: faster, with almost the same ranking. By "
        "default the model's own.",
        "|".join(MATMUL_DTYPES),
    ),
)
