"""Schemas of requests and answers, with the names of `lens_scopes.attribute` and `Attribution`.

Answers are written from results as they are; their models here describe them for OpenAPI. What is not finite is null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticSerializationError

from lens_scopes.prompts.spans import Chars
from lens_scopes.scopes.registry import (
    FREEZABLE,
    LENSES,
    POINTS,
    READOUTS,
    SCORE_SITES,
    ScopeEntry,
    rule_choices,
    scope_entries,
)
from lens_scopes.scopes.spec import Spec
from lens_scopes.scopes.text.options import (
    ANSWER_OPTIONS,
    CELL_OPTIONS,
    MATRIX_OPTIONS,
    PATH_OPTIONS,
    SCOPE_OPTIONS,
    SERIES_OPTIONS,
    SITE_OPTIONS,
    WHICH_ANSWER,
    Option,
    options,
)

Number = float | None
Name = Annotated[str, Field(max_length=200)]
SpanName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^=]*$")]  # as on a command line, NAME=TEXT
OtherText = Annotated[str, Field(min_length=1, max_length=options()["against"].longest)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="after")
    def _valid_unicode(self) -> _Request:
        try:
            self.model_dump_json()
        except PydanticSerializationError:
            raise ValueError("a text holds a lone surrogate, which is no valid Unicode") from None
        return self


class Message(_Request):
    """One turn of a chat."""

    role: Name
    content: str


class PromptRequest(_Request):
    """The prompt and the model that reads it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": kind}}}
                for name, kind in (("text", "string"), ("chat", "array"))
            ]
        }
    )

    text: str | None = Field(None, description="The prompt as text.", examples=["The capital of France is"])
    chat: list[Message] | None = Field(
        None, max_length=64, description="The prompt as chat messages, in place of text."
    )
    model: Name | None = Field(
        None, description="One of the models this server was started with; by default its first."
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> PromptRequest:
        if (self.text is None) == (self.chat is None):
            raise ValueError("give one of text and chat")
        return self

    @property
    def length(self) -> int:
        """How many characters the prompt has."""
        return len(self.text or "") + sum(len(turn.role) + len(turn.content) for turn in self.chat or [])

    def prompt(self) -> str | list[dict[str, str]]:
        """The prompt as `attribute` takes it."""
        return self.text if self.text is not None else [turn.model_dump() for turn in self.chat or []]


class _Choices(_Request):
    """Base of the requests that ask for a Spec, whose options the registry describes."""

    def spec(self) -> Spec:
        """What is asked, read as the command line reads its options.

        Raises:
            LensScopesError: as `Spec.from_options`; ObjectiveError for a comparison method.
        """
        return Spec.from_options(**self.model_dump(include=self.option_names())).require_gradient()

    @classmethod
    def option_names(cls) -> set[str]:
        """The fields that are options of a Spec."""
        return options().keys() & cls.model_fields.keys()


def _with_options(name: str, *names: str) -> Any:
    """A request with these options as its fields."""
    known = options()
    return create_model(name, __base__=_Choices, **{option: _field(known[option]) for option in names})


def _field(option: Option) -> Any:
    """An option as a field: its text bounded in length, its number as the registry bounds it."""
    if option.many:
        return list[Name], Field(default=[], max_length=8, description=option.help)
    if option.kind is bool:
        return bool, Field(False, description=option.help)
    if option.kind is int:
        return int | None, Field(None, ge=option.minimum, le=option.maximum, description=option.help)
    text: Any = Annotated[str, Field(max_length=option.longest)]
    return text | None, Field(None, description=option.help)


# What comparison methods take is left out: a server computes gradients. Its memory is its own.
_GRADIENT_SETTINGS = {
    name for entry in scope_entries().values() if entry.takes_gradient for name in ("scope", *entry.settings)
}
_SCOPE = [name for name in SCOPE_OPTIONS if name in _GRADIENT_SETTINGS]
_LIMITS = ("matmul_dtype",)

if TYPE_CHECKING:
    _SpecRequest = _HeadsRequest = _CellRequest = _MatrixRequest = _SeriesRequest = _PathRequest = _Choices
else:
    _SpecRequest = _with_options("_SpecRequest", *_SCOPE, *ANSWER_OPTIONS, *SITE_OPTIONS, *PATH_OPTIONS, *_LIMITS)
    _HeadsRequest = _with_options("_HeadsRequest", *_SCOPE, *WHICH_ANSWER, *PATH_OPTIONS, *_LIMITS)
    _CellRequest = _with_options("_CellRequest", *_SCOPE, *ANSWER_OPTIONS, *CELL_OPTIONS, *PATH_OPTIONS, *_LIMITS)
    _MatrixRequest = _with_options("_MatrixRequest", *_SCOPE, *MATRIX_OPTIONS, *PATH_OPTIONS, *_LIMITS)
    _SeriesRequest = _with_options("_SeriesRequest", *_SCOPE, *WHICH_ANSWER, *SERIES_OPTIONS, *PATH_OPTIONS, *_LIMITS)
    _PathRequest = _with_options("_PathRequest", *PATH_OPTIONS, *_LIMITS)

Position = Annotated[
    int, Field(ge=-(2**31), lt=2**31, description="The token after which the prediction is explained.")
]


class AttributeRequest(PromptRequest, _SpecRequest):
    """`lens_scopes.attribute`."""

    position: Position = -1


class HeadsRequest(PromptRequest, _HeadsRequest):
    """`lens_scopes.inspect_heads`."""

    position: Position = -1
    baseline: Name = Field("mean", description="zero, mean or shuffle.")
    against: OtherText | None = Field(
        None,
        description="In place of a baseline, another prompt of as many tokens: its text, ids (#2#651) "
        "or a chat's JSON.",
    )
    mlp_rules: list[Name] = Field(
        default=["auto"],
        min_length=1,
        max_length=8,
        description="Rules by which the effects of MLPs are predicted too, such as relp; none for the gradient alone.",
    )
    head: list[Name] = Field(default=[], max_length=12, description="Heads whose patterns to return, in place of top.")
    top: int = Field(6, ge=1, le=12, description="How many of the strongest heads to return patterns of.")
    verify: int | None = Field(None, ge=0, lt=2**31, description="How many components to ablate.")

    @classmethod
    def option_names(cls) -> set[str]:
        return super().option_names() - {"against"}  # what replaces an output is no readout


class CellsRequest(PromptRequest, _CellRequest):
    """`lens_scopes.patch_cells`, of an attribution of every layer against another prompt."""

    against: OtherText = Field(description=options()["against"].help)
    position: Position = -1
    verify: int = Field(10, ge=0, lt=2**31, description="How many of the strongest cells to patch.")

    def spec(self) -> Spec:
        return super().spec().with_layers()


class AlignmentRequest(PromptRequest):
    """Two prompts, to be put beside each other."""

    against: OtherText


class SuggestionsRequest(PromptRequest):
    """What was typed of a target, and the prompt that it is to follow."""

    q: Annotated[str, Field(max_length=200, description="What was typed.")]
    position: Position = -1
    most: int = Field(12, ge=1, le=50, description="How many tokens to return.")


class MatrixRequest(PromptRequest, _MatrixRequest):
    """`lens_scopes.attribute_all`."""

    answer: Annotated[str, Field(max_length=4000)] | None = Field(
        None,
        description="A text, or ids (#12#34), after the prompt, whose tokens alone are explained.",
    )
    generate: int = Field(
        0, ge=0, lt=2**31, description="Tokens for the model to add first; those alone are explained."
    )
    spans: dict[Name, str] = Field(default={}, max_length=32, description="Named parts of the prompt.")

    @classmethod
    def option_names(cls) -> set[str]:
        return super().option_names() - {*WHICH_ANSWER}  # a matrix sums nothing over an answer, so it has its own


class InfluenceRequest(MatrixRequest):
    """`lens_scopes.attribute_all(…).total_influence(of)`."""

    of: str = Field(
        "answer",
        max_length=4000,
        description="The part of the text after the prompt that is explained: answer (its last sentence), generated "
        "(all of it), or a text in it.",
    )

    @model_validator(mode="after")
    def _text_to_go_through(self) -> InfluenceRequest:
        if not self.generate and self.answer is None:
            raise ValueError("influence goes through the text after the prompt; give answer or generate")
        return self


class ModesRequest(PromptRequest, _PathRequest):
    """`lens_scopes.inspect_modes`."""

    position: Position = -1
    rank: int = Field(4, ge=-(2**31), le=32, description="How many Fisher modes to decode.")
    baseline: Name = Field("mean", description="zero or mean.")

    @classmethod
    def option_names(cls) -> set[str]:
        return super().option_names() - {"rank"}


class FlowRequest(PromptRequest, _PathRequest):
    """`lens_scopes.information_flow`."""

    spans: dict[SpanName, Annotated[str, Field(max_length=4000)]] = Field(
        default={}, max_length=32, description="Parts of the prompt by name; by default the messages of a chat."
    )
    characters: dict[SpanName, tuple[int, int]] = Field(
        default={},
        max_length=32,
        description="Further parts by name, as first and last + 1 of their characters, where a text occurs twice.",
    )
    position: Position = -1
    answer: Annotated[str, Field(max_length=4000)] | None = Field(
        None, description="A text, or ids (#12#34), after the prompt, whose predictions are explained and summed."
    )
    generate: int = Field(0, ge=0, lt=2**31, description="Tokens for the model to add, in place of an answer.")
    sigma: float = Field(
        0.1, gt=0, le=100, allow_inf_nan=False, description="Size of the noise, in median embeddings of the vocabulary."
    )
    rank: int | None = Field(None, ge=1, le=128, description="Leading directions per prediction.")
    samples: int | None = Field(None, ge=2, le=128, description="Random directions for the remainder.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the random directions.")

    @model_validator(mode="after")
    def _distinct_names(self) -> FlowRequest:
        for name in self.spans.keys() & self.characters.keys():
            raise ValueError(f"two spans are named {name!r}; give each a name of its own")
        return self

    def named_spans(self) -> dict[str, str | Chars]:
        """All spans, as `information_flow` takes them."""
        return {**self.spans, **{name: Chars(*ends) for name, ends in self.characters.items()}}

    @classmethod
    def option_names(cls) -> set[str]:
        return super().option_names() - {"rank", "samples", "seed", *WHICH_ANSWER}


class SeriesRequest(PromptRequest, _SeriesRequest):
    """`lens_scopes.inspect_series`."""

    separator: str = Field(",", min_length=1, max_length=8, description="What stands between numbers, besides spaces.")
    width: int | None = Field(None, ge=0, le=64, description="Characters at which a number is complete.")
    least: float = Field(1e-4, ge=1e-5, lt=1, description="Smallest probability of a beginning that is followed.")
    longest: int = Field(8, ge=1, le=64, description="Most characters of a value, where there is no width.")


class PredictedToken(BaseModel):
    """A token of the vocabulary with the probability of it coming next."""

    token_id: int
    token: str
    probability: Number


class Prediction(BaseModel):
    """What the model predicts."""

    top: list[PredictedToken]
    entropy: Number
    beta: Number


class Answer(BaseModel):
    """The answer explained, teacher-forced, with the probability of each of its tokens."""

    tokens: list[str]
    token_ids: list[int]
    log_probabilities: list[Number]
    generated: bool


class Command(BaseModel):
    """What gives the same result elsewhere."""

    python: str
    shell: str | None = Field(description="A line for bash or zsh; null where a shell cannot say it.")


class _Result(BaseModel):
    id: str = Field(description="Names the result under /api/results, for as long as the server keeps it.")
    kind: str
    tokens: list[str]
    special: list[bool]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str]
    command: Command


class _ScopeResult(_Result):
    token_ids: list[int]
    scope: str
    objective: str
    contract: dict[str, str]


class AttributionAnswer(_ScopeResult):
    """`Attribution` and its id, for downloads."""

    kind: Literal["attribution"]
    scores: list[Number]
    offsets: list[tuple[int, int]] | None
    text: str | None
    position: int
    target: PredictedToken | None
    answer: Answer | None
    other_answer: Answer | None
    prediction: Prediction
    layers: list[list[Number]] | None
    layer_names: list[str]
    lens: dict[str, Any] | None
    sites: dict[str, list[Any]]
    standard_error: list[Number] | None
    layers_standard_error: list[list[Number]] | None


class AblatedComponent(BaseModel):
    """A component's predicted and actual change."""

    layer: int
    head: int | None
    predicted: Number
    actual: Number


class HeadsAnswer(_ScopeResult):
    """`HeadInspection` and its id."""

    kind: Literal["heads"]
    effect: list[list[Number]]
    mlp_effect: list[Number]
    by_source: list[list[list[Number]]]
    norms: list[list[list[Number]]]
    direct_effect: list[list[Number]]
    patterns: dict[str, list[list[Number]]]
    pattern_gradients: dict[str, list[list[Number]]]
    head_types: dict[str, list[list[Number]]]
    ablations: list[AblatedComponent]
    spearman: Number
    baseline: str
    position: int
    target: PredictedToken | None
    answer: Answer | None
    other_answer: Answer | None
    prediction: Prediction


class PatchedCell(BaseModel):
    """A cell's predicted and actual change."""

    layer: int
    site: str
    position: int
    token: str
    other_token: str
    predicted: Number
    actual: Number


class CellsAnswer(_ScopeResult):
    """`CellPatches` and its id."""

    kind: Literal["cells"]
    effect: list[list[Number]]
    layer_names: list[str]
    baseline_tokens: list[str]
    cells: list[PatchedCell]
    spearman: Number
    position: int
    target: PredictedToken | None
    answer: Answer | None
    other_answer: Answer | None
    prediction: Prediction


class Alignment(BaseModel):
    """Whether two prompts have as many tokens, and where they differ; nothing until the model is loaded."""

    aligned: bool | None
    problem: str = Field(default="", description="Where the two part, in a sentence.")
    blocks: list[dict[str, Any]] = Field(default=[], description="What the page draws of it.")


class MatrixAnswer(_ScopeResult):
    """`AttributionMatrix` and its id."""

    kind: Literal["matrix"]
    matrix: list[list[Number]]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    text: str | None
    answer: int
    generated: int
    spans: dict[str, tuple[int, int]]


class InfluenceAnswer(_ScopeResult):
    """`TotalInfluence` and its id."""

    kind: Literal["influence"]
    scores: list[Number]
    direct: list[Number]
    through: list[Number]
    shares: list[list[Number]]
    of: str
    target: tuple[int, int]
    text: str | None
    spans: dict[str, tuple[int, int]]
    segments: list[dict[str, Any]]
    hops: list[dict[str, Any]]
    chains: list[dict[str, Any]]


class ModesAnswer(_Result):
    """`ModeInspection` and its id."""

    kind: Literal["modes"]
    modes: list[dict[str, Any]]
    replacements: list[dict[str, Any]]


class FlowAnswer(_ScopeResult):
    """`InformationFlow` and its id."""

    kind: Literal["flow"]
    spans: dict[str, tuple[int, int]]
    sigma: float
    totals: list[dict[str, Any]]
    curve: dict[str, list[Any]]
    eigenvalues: list[list[list[Number]]]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    rank: int
    samples: int
    answer: int
    generated: bool


class SeriesAnswer(_ScopeResult):
    """`SeriesInspection` and its id."""

    kind: Literal["series"]
    scores: list[Number]
    numbers: list[float]
    written: list[str]
    spans: list[tuple[int, int]]
    influence: list[Number]
    forecast: dict[str, Any]
    position: int
    target: PredictedToken | None
    answer: Answer | None
    other_answer: Answer | None
    prediction: Prediction


class Progress(BaseModel):
    """How far the work is; `waiting` is the number of requests ahead."""

    job: str
    waiting: int
    stage: str
    done: int
    total: int


class ServedModel(BaseModel):
    """A model that requests may name."""

    name: str
    loaded: bool
    chat: bool | None = Field(description="Whether it takes chat messages; null until it is loaded.")
    n_layers: int | None
    n_heads: int | None


def choices() -> dict[str, Any]:
    """What there is to choose from, for `About`."""
    known = options()
    scopes = [
        ScopeChoice(
            name=entry.name, explains=entry.explains, settings=list(entry.settings), elsewhere=_elsewhere(entry)
        )
        for entry in scope_entries().values()
        if entry.takes_gradient
    ]
    return {
        "scopes": scopes,
        "readouts": [Choice(name=entry.name, explains=entry.explains) for entry in READOUTS.values()],
        "points": [Choice(name=entry.name, explains=entry.explains) for entry in POINTS.values()],
        "score_sites": [Choice(name=entry.name, explains=entry.explains) for entry in SCORE_SITES.values()],
        "lenses": [Choice(name=entry.name, explains=entry.explains) for entry in LENSES.values()],
        "freezable": [Choice(name=name, explains=words) for name, words in FREEZABLE.items()],
        "rules": [Choice(name=name, explains=words) for name, words in rule_choices().items()],
        "help": {name: option.help for name, option in known.items()},
    }


def _elsewhere(entry: ScopeEntry) -> str:
    return Spec.parse(entry.name).without_sites().to_options()["scope"] if entry.is_preset else entry.name


class Example(BaseModel):
    """A request worth looking at."""

    study: str
    title: str
    what: str
    request: dict[str, Any] = Field(description="A question for /api/attribute.")
    compare: dict[str, Any] | None = Field(default=None, description="Another one, to be put beside it.")


class ScopeChoice(BaseModel):
    """A scope that requests may name."""

    name: str
    explains: str
    settings: list[str] = Field(description="The options that it takes.")
    elsewhere: str = Field(description="The scope that stands for it where sites are not to be chosen, as for heads.")


class Choice(BaseModel):
    """A readout, a kind of points, a place for scores, a lens, what can be held constant, or backward rules."""

    name: str
    explains: str


class About(BaseModel):
    """What the page needs to know of the server."""

    version: str
    models: list[ServedModel]
    scopes: list[ScopeChoice]
    readouts: list[Choice]
    points: list[Choice]
    score_sites: list[Choice]
    lenses: list[Choice]
    freezable: list[Choice]
    rules: list[Choice]
    help: dict[str, str] = Field(description="One line on each option.")
    limits: dict[str, float]
    examples: list[Example]
    labels: dict[str, str] = Field(description="The words that the page draws with.")


class VocabularyEntry(BaseModel):
    """A token that can be a target."""

    token_id: int
    token: str
    label: str
    probability: float | None = Field(None, description="Of it coming next, where a prompt was given.")
