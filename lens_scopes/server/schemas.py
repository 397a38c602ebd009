"""What requests may say and what answers hold, under the names of `lens_scopes.attribute` and of `Attribution`.

Answers are written from results as they are; their models here describe them for OpenAPI. What is not finite is null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lens_scopes.scopes.readouts import READOUTS
from lens_scopes.scopes.registry import scope_names

Number = float | None
Name = Annotated[str, Field(max_length=200)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Message(_Request):
    """One turn of a chat."""

    role: Name
    content: str


class PromptRequest(_Request):
    """The prompt and the model that reads it."""

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
    def characters(self) -> int:
        """How long the prompt is."""
        return len(self.text or "") + sum(len(turn.role) + len(turn.content) for turn in self.chat or [])

    def prompt(self) -> str | list[dict[str, str]]:
        """The prompt as `attribute` takes it."""
        return self.text if self.text is not None else [turn.model_dump() for turn in self.chat or []]


class _Path(_Request):
    through: Name | None = Field(
        None, description='Components that carry gradient: "5-9", "L3H2,L5H0", "attention & 5-9", "mlp", "skip".'
    )
    freeze: list[Name] = Field(default=[], max_length=3, description="patterns, norms, gates: held constant.")


class _Objective(_Request):
    scope: Name = Field("semantic", description=f"What to explain: {', '.join(scope_names(takes_gradient=True))}.")
    target: Name | None = Field(None, description="The token explained: its exact string, or its id as '#9079'.")
    other: Name | None = Field(None, description="The token that logit-diff contrasts the target with.")
    rank: Name | None = Field(None, description="Leading terms of fisher, or trace.", examples=["1", "trace"])
    samples: int | None = Field(None, le=256, description="Random directions for rank trace; 0 is exact.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of the random directions.")


Position = Annotated[
    int, Field(ge=-(2**31), lt=2**31, description="The token after which the prediction is explained.")
]


class AttributeRequest(PromptRequest, _Objective, _Path):
    """`lens_scopes.attribute`."""

    position: Position = -1
    layers: bool = Field(False, description="Influence at every layer's residual stream too.")
    layer_site: Name | None = Field(None, description="resid_pre, resid_mid or resid_post; asks for layers.")
    readout: Name | None = Field(None, description=f"{', '.join(READOUTS)}; by default the scope's own.")


class HeadsRequest(PromptRequest, _Objective, _Path):
    """`lens_scopes.inspect_heads`."""

    position: Position = -1
    baseline: Name = Field("mean", description="zero, mean or shuffle.")
    head: list[Name] = Field(default=[], max_length=12, description="Heads whose patterns to return, in place of top.")
    top: int = Field(6, ge=1, le=12, description="How many of the strongest heads to return patterns of.")
    verify: int | None = Field(None, ge=0, lt=2**31, description="How many components to ablate.")


class MatrixRequest(PromptRequest, _Objective, _Path):
    """`lens_scopes.attribute_all`."""

    generate: int = Field(
        0, ge=0, lt=2**31, description="Tokens for the model to add first; those alone are explained."
    )
    spans: dict[Name, str] = Field(default={}, max_length=32, description="Named parts of the prompt.")


class ModesRequest(PromptRequest, _Path):
    """`lens_scopes.inspect_modes`."""

    position: Position = -1
    rank: int = Field(4, ge=-(2**31), le=32, description="How many Fisher modes to decode.")
    baseline: Name = Field("mean", description="zero or mean.")


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


class Command(BaseModel):
    """What gives the same result elsewhere."""

    python: str
    shell: str | None = Field(description="A line for bash or zsh; null where a shell cannot say it.")


class LaterToken(BaseModel):
    """A token of the prompt after the position explained."""

    index: int
    label: str


class View(BaseModel):
    """The words that the page shows beside the numbers."""

    title: str
    labels: list[str] = Field(description="The tokens as a table shows them.")
    running: list[str] = Field(description="The tokens as running text shows them.")
    reading: str = Field(description="What a score means.")
    caution: str = Field(description="How not to read it.")
    oddities: list[str]
    command: Command


class LikelyToken(PredictedToken):
    """A predicted token as it is shown."""

    label: str
    target: bool


class AttributionView(View):
    """The words that the page shows beside the numbers."""

    layer_labels: list[str]
    later: list[LaterToken]
    likely: list[LikelyToken]


class HeadsView(View):
    """The words that the page shows beside the numbers."""

    unit: str
    agreement: str
    kinds: dict[str, str]


class MatrixView(View):
    """The words that the page shows beside the numbers."""

    rows: list[str]


class _Result(BaseModel):
    id: str = Field(description="Names the result under /api/results, for as long as the server keeps it.")
    kind: str
    tokens: list[str]
    special: list[bool]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str]


class _Scoped(_Result):
    token_ids: list[int]
    scope: str
    objective: str
    contract: dict[str, str]


class AttributionAnswer(_Scoped):
    """`Attribution`, its id for downloads, and the words of its view."""

    kind: Literal["attribution"]
    scores: list[Number]
    offsets: list[tuple[int, int]] | None
    text: str | None
    position: int
    target: PredictedToken | None
    prediction: Prediction
    layers: list[list[Number]] | None
    layer_names: list[str]
    sites: dict[str, list[Any]]
    standard_error: list[Number] | None
    layers_standard_error: list[list[Number]] | None
    view: AttributionView


class AblatedComponent(BaseModel):
    """A component's predicted and actual change."""

    layer: int
    head: int | None
    predicted: Number
    actual: Number


class HeadsAnswer(_Scoped):
    """`HeadInspection`, its id, and the words of its view."""

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
    prediction: Prediction
    view: HeadsView


class MatrixAnswer(_Scoped):
    """`AttributionMatrix`, its id, and the words of its view."""

    kind: Literal["matrix"]
    matrix: list[list[Number]]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    text: str | None
    generated: int
    spans: dict[str, tuple[int, int]]
    view: MatrixView


class ModesAnswer(_Result):
    """`ModeInspection`, its id, and the words of its view."""

    kind: Literal["modes"]
    modes: list[dict[str, Any]]
    replacements: list[dict[str, Any]]
    view: View


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


class Example(BaseModel):
    """A request worth looking at."""

    study: str
    title: str
    what: str
    request: dict[str, Any] = Field(description="A question for /api/attribute.")
    compare: dict[str, Any] | None = Field(default=None, description="Another one, to be put beside it.")


class About(BaseModel):
    """What the page needs to know of the server."""

    version: str
    models: list[ServedModel]
    scopes: list[str]
    limits: dict[str, float]
    examples: list[Example]


class VocabularyEntry(BaseModel):
    """A token that can be a target."""

    token_id: int
    token: str
    label: str
