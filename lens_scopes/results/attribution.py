"""The result of a scope: scores with everything needed to read, check, keep and show them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken, Prediction
from lens_scopes.prompts.groups import Grouping, group_tokens
from lens_scopes.results.base import Result
from lens_scopes.results.files import ResultFormat, write_whole

if TYPE_CHECKING:
    import pandas

FORMAT = ResultFormat("lens_scopes.attribution", 1, "Attribution.save")

_TENSORS = ("scores", "layers", "standard_error", "layers_standard_error")


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """Influence of each token on one prediction of one model.

    Attributes:
        scores: influence of each token, from the first one to the position explained: at the embedding, unless `at`
            said elsewhere. Non-negative but for the dot readout; units are those of the contract's score.
        tokens: the tokens as strings, aligned with scores.
        token_ids: their ids.
        special: which of them are special tokens (BOS is an attention sink: its score is kept, but views leave it
            out of their colour scale and `top` out of its list).
        offsets: character offsets of each token in `text`, where known.
        text: the prompt, where it was text or chat.
        position: index of the token after which the prediction is explained.
        target: the token explained, for objectives that have one.
        prediction: what the model predicts there.
        scope: short name of the objective.
        objective: the objective as written in Python, tokens resolved.
        layers: influence of each token at every layer's residual stream, where asked for.
        layer_names: the hook names of its rows.
        sites: influence at other sites asked for, by hook name.
        standard_error: standard error of scores, where directions were sampled.
        layers_standard_error: the same for layers.
        contract: the five elements of the attribution contract.
        model: name, revision, backend, dtype, processing flags and sizes of the model.
        settings: the four choices and the seed, as plain values.
        versions: versions of the packages that computed it.
        warnings: what a reader must know before trusting the numbers.
    """

    scores: Float[Tensor, " pos"]
    tokens: list[str]
    token_ids: list[int]
    special: list[bool]
    offsets: list[tuple[int, int]] | None
    text: str | None
    position: int
    target: PredictedToken | None
    prediction: Prediction
    scope: str
    objective: str
    contract: dict[str, str]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    layers: Float[Tensor, "layer pos"] | None = None
    layer_names: list[str] = field(default_factory=list)
    sites: dict[str, Tensor] = field(default_factory=dict)
    standard_error: Float[Tensor, " pos"] | None = None
    layers_standard_error: Float[Tensor, "layer pos"] | None = None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        name = self.model.get("name", "model")
        predicted = ", ".join(f"{item.token!r} {item.probability:.2f}" for item in self.prediction.top[:2])
        leading = ", ".join(f"{token!r} {value:.3g}" for _, token, value in self.top(3))
        shape = f"{len(self.tokens)} tokens" + ("" if self.layers is None else f" × {len(self.layers)} layers")
        return (
            f"Attribution({self.objective} on {name}, {shape}, position {self.position}; "
            f"predicts {predicted}; top: {leading})"
        )

    def top(self, k: int = 5, special: bool = False) -> list[tuple[int, str, float]]:
        """The k tokens with the largest absolute scores, as (index, token, score).

        Args:
            k: how many at most.
            special: whether special tokens such as BOS may be among them.
        """
        eligible = [index for index in range(len(self.tokens)) if special or not self.special[index]]
        values = self.scores.tolist()
        ranked = sorted(eligible, key=lambda index: -abs(values[index]))[:k]
        return [(index, self.tokens[index], values[index]) for index in ranked]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per token: index, token, token_id, special, score, and where present standard_error and a column for
        every layer and site (head sites give one column per head)."""
        import pandas

        columns: dict[str, Any] = {
            "index": range(len(self.tokens)),
            "token": self.tokens,
            "token_id": self.token_ids,
            "special": self.special,
            "score": self.scores.tolist(),
        }
        if self.standard_error is not None:
            columns["standard_error"] = self.standard_error.tolist()
        if self.layers is not None:
            columns |= {name: row.tolist() for name, row in zip(self.layer_names, self.layers, strict=True)}
        for name, values in self.sites.items():
            if values.ndim == 1:
                columns[name] = values.tolist()
            else:
                flat = values.reshape(len(values), -1).T
                columns |= {f"{name}.{index}": row.tolist() for index, row in enumerate(flat)}
        return pandas.DataFrame(columns)

    def group(self, by: Grouping = "word") -> pandas.DataFrame:
        """Scores summed over words, lines or named spans.

        A squared-norm score of a group of tokens moved independently is the sum of theirs; for plain norms the sum
        is an upper bound of the joint effect.

        Args:
            by: "word", "line", or a mapping from names to token ranges [start, stop).

        Returns:
            One row per group: label, start, stop, score.

        Raises:
            PromptError: for another grouping or ranges outside the prompt.
        """
        import pandas

        groups = group_tokens(self.tokens, self.special, by, text=self.text, offsets=self.offsets)
        return pandas.DataFrame(
            {
                "label": [group.label for group in groups],
                "start": [group.start for group in groups],
                "stop": [group.stop for group in groups],
                "score": [float(self.scores[group.start : group.stop].sum()) for group in groups],
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        plain = asdict(self)
        for name in _TENSORS:
            value = getattr(self, name)
            plain[name] = None if value is None else value.tolist()
        plain["sites"] = {name: values.tolist() for name, values in self.sites.items()}
        return plain

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole result as one safetensors file: tensors, and the rest as JSON metadata with a format
        version.

        The file is written whole or not at all.

        Raises:
            FileError: when it cannot be written.
        """
        write_whole(path, self.to_safetensors())

    def to_safetensors(self) -> bytes:
        """The contents of the file that `save` writes."""
        tensors = {name: value for name in _TENSORS if (value := getattr(self, name)) is not None}
        tensors |= {f"sites/{name}": values for name, values in self.sites.items()}
        record = {key: value for key, value in asdict(self).items() if key not in _TENSORS}
        record["sites"] = list(self.sites)  # the file keeps tensors in another order
        return FORMAT.content(record, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Reads a result written by `save`.

        Raises:
            FileError: when the file is missing, truncated, of another kind, or from a newer version.
        """
        return FORMAT.read(path, cls._from_record)

    @classmethod
    def _from_record(cls, record: dict[str, Any], tensors: dict[str, Tensor]) -> Attribution:
        prediction = record["prediction"]
        record["prediction"] = Prediction(
            [PredictedToken(**item) for item in prediction["top"]], prediction["entropy"], prediction["beta"]
        )
        record["target"] = None if record["target"] is None else PredictedToken(**record["target"])
        if record["offsets"] is not None:
            record["offsets"] = [(start, stop) for start, stop in record["offsets"]]
        record["sites"] = {name: tensors[f"sites/{name}"] for name in record["sites"]}
        found: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name in tensors}
        loaded = cls(**record, **found)
        loaded._check_lengths()
        return loaded

    def _check_lengths(self) -> None:
        n_tokens, n_layers = len(self.tokens), len(self.layer_names)
        lengths = {"scores": len(self.scores), "token_ids": len(self.token_ids), "special": len(self.special)}
        lengths |= {name: len(values) for name, values in self.sites.items()}
        for name, length in lengths.items():
            if length != n_tokens:
                raise ValueError(f"{length} {name} for {n_tokens} tokens")
        if (0 if self.layers is None else len(self.layers)) != n_layers:
            raise ValueError(f"{n_layers} names of layers")
