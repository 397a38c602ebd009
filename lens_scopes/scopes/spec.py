"""What is asked of a model, as one value: objective, where it is read, path, readout, points and limits.

A Spec is read once, from the arguments of a function, from options as text (a command line, JSON), or from one line:

    fisher@8+dot-mean+path-bos@16+through=5-9

It is checked without a model, resolved with one, and writes itself as any of these and as Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from lens_scopes.engine.memory import parse_memory
from lens_scopes.engine.model import MatmulDtype, ScopedModel, check_matmul_dtype
from lens_scopes.engine.sites import EMBEDDING, residual_name
from lens_scopes.errors import VALIDATED, LensScopesError, ObjectiveError, ReadoutError, SiteError
from lens_scopes.prompts.answer import AnswerLike, one_answer
from lens_scopes.prompts.tokens import as_integer, quote
from lens_scopes.scopes.comparisons.baseline import Baseline
from lens_scopes.scopes.lens import Lens, LensLike, as_lens
from lens_scopes.scopes.objectives import Custom, Explanation, Fisher, Objective, Semantic
from lens_scopes.scopes.other_prompt import OtherPrompt, as_other_prompt
from lens_scopes.scopes.paths import Frozen, Path, PathLike, Rules, as_path
from lens_scopes.scopes.points import Points, PointsLike, StraightPath, as_points
from lens_scopes.scopes.readouts import Norm, Readout, as_readout
from lens_scopes.scopes.registry import SCORE_SITES, scope_entries, scope_entry, scope_names
from lens_scopes.scopes.text.forms import check_eligible
from lens_scopes.scopes.text.lines import cli_words, read_options, write_line
from lens_scopes.scopes.text.options import SHARED_OPTIONS, option_text
from lens_scopes.scopes.text.values import EACH, write_text_or_ids, write_token

if TYPE_CHECKING:
    from lens_scopes.scopes.objectives import DirectionFunction

AnswerValue: TypeAlias = Annotated["str | int | tuple[int, ...] | None", VALIDATED]
ReadoutLike: TypeAlias = Annotated["Readout | str | None", VALIDATED]
ObjectiveLike: TypeAlias = Annotated[
    "Spec | type[Spec] | Explanation | type[Explanation] | str | DirectionFunction | None", VALIDATED
]

_NONE = type(None)
_KINDS: dict[str, tuple[Any, str]] = {
    "objective": ((Objective, Baseline), "an objective or a comparison method"),
    "layers": ((str, _NONE), "a residual site or None"),
    "lens": ((Lens, _NONE), "a Lens or None"),
    "sites": (tuple, "a tuple of hook names"),
    "score_site": (str, "a hook name"),
    "through": ((Path, _NONE), "a Path or None"),
    "readout": (Readout, "a Readout"),
    "points": ((Points, _NONE), "Points or None"),
    "memory": ((int, _NONE), "a number of bytes or None"),
}
"""What the fields of a Spec are, for Python and in words; targets and answers are checked with the objective."""


@dataclass(frozen=True, eq=False, repr=False)
class Spec:
    """Everything that is asked about one prediction.

    Attributes:
        objective: what is explained, or the comparison method.
        layers: the residual stream read at each layer, "resid_pre", "resid_mid" or "resid_post"; None for none.
        lens: what reads the cells of the layers map as tokens, which asks for layers; None for nothing.
        sites: further activations to read.
        score_site: where the tokens' scores are read.
        through: which components carry gradient, and by what rules; None for all, by the model's derivative.
        readout: how a gradient becomes a score.
        points: where gradients are taken; None for the prompt itself.
        target: the next token explained, for objectives that take one and name none.
        answer: the whole answer explained, as a text, as ids, or as a number of tokens to generate; None for the next
            token alone.
        eligible: which tokens get scores where an answer is explained: "prompt", or "all" for the answer's own too.
        memory: the most bytes to use beyond the model's weights; None for a share of what is free.
        matmul_dtype: what factors of the body's matrix products are rounded to; None for the model's own dtype.

    Raises:
        LensScopesError: for choices that do not fit each other.

    Example:
        >>> spec = Spec.parse("fisher@8+dot-mean")
        >>> spec.to_python()
        ['ls.Fisher(rank=8)', "readout='dot-mean'"]
        >>> Spec.from_options(**spec.to_options()) == spec
        True
    """

    objective: Explanation = Semantic()
    layers: str | None = None
    lens: Lens | None = None
    sites: tuple[str, ...] = ()
    score_site: str = EMBEDDING
    through: Path | None = None
    readout: Readout = Norm()
    points: Points | None = None
    target: str | int | None = None
    answer: AnswerValue = None
    eligible: str = "prompt"
    memory: int | None = None
    matmul_dtype: MatmulDtype = None

    NO_GRADIENT: ClassVar[tuple[str, ...]] = ("layers", "lens", "sites", "score_site", "through", "readout", "points")

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _as_answer(self.answer))
        if (target := as_integer(self.target)) is not None:
            object.__setattr__(self, "target", target)
        self._check_kinds()
        check_matmul_dtype(self.matmul_dtype)
        if self.layers is not None:
            residual_name(self.layers)
        self.objective.check_target(self.target)
        self._check_answer()
        # A comparison method makes its scores alone: what it has no place for must be as usual.
        if isinstance(self.objective, Baseline):
            no_place = ("eligible",) if self.objective.takes_answer else ("answer", "eligible")
            names, why = (*no_place, *self.NO_GRADIENT), f"{self.objective.scope} {self.objective.why_alone}"
            self._refuse_choices(names, why, "a scope like Fisher()")
            return
        object.__setattr__(self, "readout", self.readout.along(self.points))
        if self.lens is not None and self.layers is None:
            object.__setattr__(self, "layers", "resid_pre")
        if self.score_site != EMBEDDING and self.readout.signed:
            raise SiteError(
                f"signed scores have no total over {self.score_site}: read them by norm, product or relative, or ask "
                f"for sites={self.score_site!r} to have each layer's."
            )

    def _check_kinds(self) -> None:
        """Raises ObjectiveError for a field of another kind: `Spec.read` reads texts, and the constructor does not."""
        for name, (kinds, words) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and name == "memory"):
                raise ObjectiveError(f"{name} of a Spec is {words}; got {quote(value)}. Spec.read reads texts too.")
        if not all(isinstance(site, str) for site in self.sites):
            raise ObjectiveError(f"sites of a Spec are a tuple of hook names; got {quote(self.sites)}.")

    @property
    def answers(self) -> tuple[Any, ...]:
        """The answers explained: one given or generated, or the two that the objective contrasts; none for a token."""
        return self.objective.contrasted or (() if self.answer is None else (self.answer,))

    def _check_answer(self) -> None:
        check_eligible(self.eligible)
        if self.eligible != "prompt" and len(self.answers) != 1:
            raise ObjectiveError(
                "eligible='all' gives an answer's own tokens scores, and there is not one answer; give answer=, or "
                "leave eligible out."
            )
        if self.answer is not None:
            self.objective.check_answer(True)
        if self.answers and self.target is not None:
            raise ObjectiveError(f"an answer is explained, so target={self.target!r} would be dropped; leave it out.")

    # Reading

    @classmethod
    def read(
        cls,
        objective: ObjectiveLike = None,
        *,
        layers: bool | str = False,
        lens: LensLike = None,
        sites: str | Sequence[str] = (),
        score_site: str | None = None,
        through: PathLike = None,
        readout: ReadoutLike = None,
        points: PointsLike = None,
        target: str | int | None = None,
        answer: AnswerLike | None = None,
        eligible: str | None = None,
        memory: str | int | None = None,
        matmul_dtype: MatmulDtype = None,
    ) -> Spec:
        """The spec of what users pass to `attribute`; what is not given is as in `objective`, where that is a Spec.

        Raises:
            LensScopesError: ObjectiveError, SiteError, PathError, ReadoutError or ModelError.
        """
        # What is not given stays out of `given`: the objective may be a Spec that has it.
        choices: dict[str, Any] = {}
        if not isinstance(layers, bool | str):
            raise SiteError(f"layers is True or a residual site; got {quote(layers)}.")
        if layers is not False:
            choices["layers"] = "resid_pre" if layers is True else str(layers).removeprefix("hook_")
        if (lens_choice := as_lens(lens)) is not None:
            choices["lens"] = lens_choice
        if isinstance(sites, str):
            sites = (sites,) if sites else ()
        if not isinstance(sites, Sequence) or not all(isinstance(site, str) for site in sites):
            raise SiteError(f"sites are hook names, one or a list of them; got {quote(sites)}.")
        if sites:
            choices["sites"] = tuple(sites)
        if score_site is not None and not isinstance(score_site, str):
            raise SiteError(f"score_site is {', '.join(SCORE_SITES)} or a hook name; got {quote(score_site)}.")
        # A preset brings a readout, which one that is named replaces.
        if score_site in SCORE_SITES:
            preset = SCORE_SITES[score_site]
            score_site, choices["readout"] = preset.site, as_readout(preset.readout)
        if readout is not None:
            choices["readout"] = as_readout(readout)
        if memory is not None:
            choices["memory"] = parse_memory(memory)
        if answer is not None:
            choices["answer"] = _as_answer(answer)
        plain = {"score_site": score_site, "target": target, "eligible": eligible, "matmul_dtype": matmul_dtype}
        plain |= {"through": as_path(through), "points": as_points(points)}
        choices |= {name: value for name, value in plain.items() if value is not None}
        base = _as_spec(objective)
        return base.replace(**choices) if choices else base

    @classmethod
    def from_options(cls, **given: Any) -> Spec:
        """The spec of options as text: those of `lens_scopes.scopes.text.options`. None counts as not given.

        Raises:
            ObjectiveError: for an unknown option or scope, and settings that do not fit the scope.
            LensScopesError: for other choices that do not fit.
        """
        return cls._of_values(read_options(given))

    @classmethod
    def parse(cls, line: str) -> Spec:
        """The spec of one line of text: a scope, a value of it after @, and choices after +.

        Choices are readouts, points, `frozen-PART`, rules such as `gim`, names of SCORE_SITES such as `values`, and any
        option as `name=value`. Text in double quotes may hold any character.

        Raises:
            LensScopesError: as `from_options`.
        """
        return cls.from_options(scope=line)

    @classmethod
    def _of_values(cls, values: dict[str, Any]) -> Spec:
        """The spec of options whose text was read."""
        entry = scope_entry(values.pop("scope"))
        has_answer = bool(values.keys() & {"answer", "generate"})
        # Settings of random directions, where nothing is drawn.
        if "rank" in entry.settings and values.get("rank") != "trace":
            unused = values.keys() & ({"exact"} if has_answer else {"samples", "exact", "seed"})
            if unused:
                raise ObjectiveError(
                    'samples, exact and seed belong to rank "trace", and samples and seed to answers: without those '
                    f"there are no random directions, so leave {min(unused)} out."
                )
        if has_answer:
            values["answer"] = one_answer(values.get("answer"), values.pop("generate", None))
        # What is left after the scope has taken its own settings belongs to every scope.
        scope_settings = {name for name in values if name in entry.settings or name not in SHARED_OPTIONS}
        base = _as_spec(entry.build(**{name: values.pop(name) for name in sorted(scope_settings)}))
        through = _path(values.pop("through", None), values.pop("freeze", ()), values.pop("rules", ()))
        other = values.pop("against", None)
        # Another prompt asks for a readout that has a baseline, where none is named.
        if other is not None and base.readout == Norm() and entry.takes_gradient:
            values.setdefault("readout", "dot")
        every_layer = values.pop("layers", False)
        layers = values.pop("layer_site", None) or every_layer
        spec = cls.read(base, through=through, layers=layers, sites=values.pop("site", ()), **values)
        return spec if other is None else spec.against(other)

    # Writing

    def to_options(self) -> dict[str, Any]:
        """The options as text that `from_options` reads; JSON holds them.

        Raises:
            ObjectiveError: for a function of one's own that has no name in the registry.
        """
        options: dict[str, Any] = self._scope_options()
        if self.layers is not None:
            options |= {"layers": True} if self.layers == "resid_pre" else {"layer_site": self.layers}
        if self.sites:
            options["site"] = list(self.sites)
        if self.target is not None:
            options["target"] = write_token(self.target)
        if isinstance(self.answer, int):
            options["generate"] = self.answer
        elif self.answer is not None:
            options["answer"] = write_text_or_ids(self.answer)
        if self.eligible != "prompt":
            options["eligible"] = self.eligible
        if self.memory is not None:
            options["memory"] = str(self.memory)
        return options | self._texts()

    def to_python(self) -> list[str]:
        """The arguments of a call such as `ls.attribute(model, prompt, …)` that ask for the same."""
        objective = _call_of(self.objective)
        arguments = [] if objective == "ls.Semantic()" else [objective]
        values = {
            "target": self.target,
            "answer": self.answer,
            "eligible": None if self.eligible == "prompt" else self.eligible,
            "layers": True if self.layers == "resid_pre" else self.layers,
            "sites": list(self.sites) or None,
            "memory": self.memory,
            **self._texts(),
        }
        return arguments + [f"{name}={value!r}" for name, value in values.items() if value is not None]

    def to_cli(self) -> list[str]:
        """The words of a command line such as `lens-scopes attribute TEXT …` that ask for the same."""
        return cli_words(self.to_options())

    @property
    def line(self) -> str:
        """The spec as one line of text, which `parse` reads."""
        return write_line(self.to_options())

    def __str__(self) -> str:
        return self.line

    def __repr__(self) -> str:
        try:
            return f"Spec.parse({self.line!r})"
        except LensScopesError:
            return f"Spec({self.objective!r}, …)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    # Changing and narrowing

    def replace(self, **changes: Any) -> Spec:
        """The spec with some of its attributes changed."""
        return Spec(**(self._values() | changes))

    def against(self, other: Any) -> Spec:
        """The same measured from another prompt of as many tokens: by the readout, by the path where gradients are
        averaged on one, or by the ablation of a comparison method.

        Args:
            other: text, chat messages, ids or a Prompt.

        Raises:
            ReadoutError: for what is no prompt, and a readout or path that has no place for one.
            ObjectiveError: for a comparison method that ablates nothing.
        """
        prompt = as_other_prompt(other)
        if prompt is None:
            raise ReadoutError(f"another prompt is a text, chat messages, ids or a Prompt; got {quote(other)}.")
        if isinstance(self.objective, Baseline):
            return self.replace(objective=self.objective.against(prompt))
        if isinstance(self.points, StraightPath):
            return self.replace(points=self.points.against(prompt))
        return self.replace(readout=self.readout.against(prompt))

    @property
    def per_prompt(self) -> bool:
        """Whether it is measured from each prompt's own other one, which `against` gives."""
        places = (
            getattr(self.readout, "baseline", None),
            getattr(self.points, "start", None),
            getattr(self.objective, "ablation", None),
        )
        return EACH in places

    def other_prompt(self, model: ScopedModel) -> OtherPrompt | None:
        """The prompt that it is measured from, by the readout, a path or an ablation; None for none."""
        if isinstance(self.objective, Baseline):
            return self.objective.other_prompt
        return self.points.other_prompt(model) if isinstance(self.points, StraightPath) else self.readout.other_prompt

    def without_sites(self) -> Spec:
        """The same objective, path and limits, read at the embedding by the norm."""
        return self.replace(layers=None, lens=None, sites=(), score_site=EMBEDDING, readout=Norm(), points=None)

    def with_layers(self) -> Spec:
        """The same read at every layer's residual stream, the usual one unless another is asked for."""
        return self if self.layers else self.replace(layers="resid_pre")

    def require_gradient(self) -> Spec:
        """The spec itself, for what needs gradients.

        Raises:
            ObjectiveError: for a comparison method.
        """
        if isinstance(self.objective, Baseline):
            raise ObjectiveError(
                f"{self.objective.scope} {self.objective.why_alone}, and a gradient along directions is needed here; "
                "choose a scope such as fisher."
            )
        return self

    def require_usual(self, names: Sequence[str], why: str) -> Spec:
        """The spec itself, for what has no place for some choices.

        Raises:
            ObjectiveError: where one of them is not as usual.
        """
        self._refuse_choices(names, why, f"{self.objective.scope} alone")
        return self

    def _values(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(Spec)}

    def _texts(self) -> dict[str, str]:
        """The choices that are written alike everywhere, where they are not as usual."""
        site_and_readout = (self.score_site, self.readout)
        # A site with its usual readout has one name, which stands for both.
        presets = {(entry.site, as_readout(entry.readout)): entry.name for entry in SCORE_SITES.values()}
        texts = {
            "lens": None if self.lens is None else self.lens.text,
            "score_site": None if self.score_site == EMBEDDING else presets.get(site_and_readout, self.score_site),
            "readout": None if self.readout == Norm() or site_and_readout in presets else self.readout.text,
            "points": None if self.points is None else self.points.text,
            "through": None if self.through is None else self.through.text or None,
            "matmul_dtype": self.matmul_dtype,
        }
        return {name: text for name, text in texts.items() if text is not None}

    def _refuse_choices(self, names: Sequence[str], why: str, instead: str) -> None:
        """To take a choice silently that has no place would be to claim what is not there."""
        usual = {item.name: item.default for item in fields(Spec)}
        for name in names:
            value = getattr(self, name)
            if value != usual[name]:
                raise ObjectiveError(
                    f"{why}, so {name}={_as_text(value)!r} does not apply to it; leave {name} out, or choose {instead}."
                )

    def _scope_options(self) -> dict[str, Any]:
        """The scope's name and those of its settings that are not usual."""
        objective = self.objective
        name = objective.name if isinstance(objective, Custom) else objective.scope
        if name not in scope_entries():
            raise ObjectiveError(
                f"{type(objective).__name__} {name!r} is a value of Python alone and has no text; give it a name with "
                "ls.register_objective."
            )
        usual = {item.name: item.default for item in fields(objective)}  # pyright: ignore[reportArgumentType]
        options: dict[str, Any] = {"scope": name}
        for option, argument in scope_entries()[name].settings.items():
            value = getattr(objective, argument)
            if value != usual[argument]:
                options[option] = option_text(option, value)
        return options


class FisherAtValues(Spec):
    """Fisher Scope, read where a token's information leaves it: at the attention values of every layer.

    score_t = Σ_l √(Σ_h Σ_i λ_i ‖u_iᵀ ∂y/∂v_lht‖₂² ‖v_lht‖₂²), in √nats, ≥ 0: how far changes of the values at a
    position, in proportion to their size, can move the prediction to first order, added up over layers l. h counts
    the heads of `hook_v`: key–value heads where queries are grouped.

    Scores are of positions, not of input tokens: above the first layer the values at a position also hold what earlier
    tokens moved there. What keys do to the patterns, and the last position's own way past attention, are left out. It
    costs what Fisher Scope costs. Half the square of one layer's and head's part is a divergence in nats.

    It is `attribute(..., Fisher(rank), score_site="values")` by one name; any other scope is read there likewise.
    Heads, matrices and modes have sites of their own and take Fisher.

    Args:
        rank, samples, exact, seed: as for Fisher.

    Example:
        >>> FisherAtValues(rank=4).line
        'fisher@4+values'
    """

    def __init__(self, rank: Any = 1, samples: int | None = None, exact: int | None = None, seed: int = 0) -> None:
        values = SCORE_SITES["values"]
        super().__init__(Fisher(rank, samples, exact, seed), score_site=values.site, readout=as_readout(values.readout))


def _as_spec(objective: ObjectiveLike) -> Spec:
    """A spec of what users may pass for an objective: a Spec, an objective or comparison method, the class of one, a
    name or line of text, or a function of y and logits.

    Raises:
        ObjectiveError: for anything else.
    """
    if objective is None:
        return Spec(Semantic())
    if isinstance(objective, type) and issubclass(objective, (Explanation, Spec)):
        try:
            objective = objective()
        except TypeError as error:
            raise ObjectiveError(f"{objective.__name__} needs its settings: {error}.") from error
    if isinstance(objective, str):
        return Spec.parse(objective)
    if isinstance(objective, Spec):
        return objective
    if isinstance(objective, Explanation):
        return Spec(objective)
    if callable(objective):
        return Spec(Custom(objective, name=getattr(objective, "__name__", "custom")))
    raise ObjectiveError(
        f"expected an objective such as ls.Semantic(' Paris'), a name ({', '.join(scope_names(takes_gradient=True))}) "
        f"or a function of (y, logits); got {type(objective).__name__}."
    )


def _as_text(choice: Any) -> Any:
    """A choice as text where it has one."""
    try:
        return getattr(choice, "text", choice)
    except ReadoutError:
        return choice


def _path(through: PathLike, frozen: Sequence[str], rules: Sequence[str]) -> Path | None:
    """A path and what else holds on it; None for what restricts nothing."""
    parts = [as_path(through), Frozen(*frozen) if frozen else None, Rules(*rules) if rules else None]
    restrictions = [part for part in parts if part is not None]
    return reduce(and_, restrictions) if restrictions else None


def _as_answer(answer: Any) -> Any:
    """An answer as a value that can be compared: text, a number, or a tuple of ids; `read_answer` checks the rest."""
    values = answer.tolist() if hasattr(answer, "tolist") else answer
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else values


def _call_of(objective: Explanation) -> str:
    if isinstance(objective, Custom):
        return repr(objective.name) if objective.name in scope_entries() else f"ls.Custom({objective.name})"
    values = [
        (item.name, getattr(objective, item.name))
        for item in fields(objective)  # pyright: ignore[reportArgumentType]
        if getattr(objective, item.name) != item.default
    ]
    return f"ls.{type(objective).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"
