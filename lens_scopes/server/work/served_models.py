"""The models that the server offers; requests can name no other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from lens_scopes.engine.model import ModelLike
from lens_scopes.errors import suggest
from lens_scopes.models.source import ModelSource
from lens_scopes.server.api.problems import Refusal
from lens_scopes.server.api.schemas import ServedModel as Described
from lens_scopes.server.work.vocabulary import Vocabulary


@dataclass
class ServedModel:
    """A model with the options it is loaded with; loaded when first asked for.

    Attributes:
        options: as on the command line, for the commands that the page shows.
        model: None until it is loaded.
    """

    options: ModelSource
    model: ModelLike | None = None
    vocabulary: Vocabulary | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.options.model


class ServedModels:
    """The models by name; the first is the default."""

    def __init__(self, served: Sequence[ServedModel]) -> None:
        self._served = {one.name: one for one in served}

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, or the first.

        Raises:
            Refusal: 422 for another name.
        """
        names = list(self._served)
        if name is None:
            return self._served[names[0]]
        if name not in self._served:
            hint = suggest(name, names, end=f"; it has {', '.join(map(repr, names))}.")
            raise Refusal(422, f"this server was not started with a model {name!r}{hint}", "ModelError")
        return self._served[name]

    def load(self, name: str | None) -> ModelLike:
        """The model itself.

        Raises:
            Refusal: as `find`.
            ModelError: when it cannot be loaded.
        """
        served = self.find(name)
        with served.lock:
            model = served.options.load() if served.model is None else served.model
            served.model = model
            return model

    def vocabulary(self, name: str | None) -> Vocabulary:
        """The tokens of a model, for completion; empty until it is loaded.

        Raises:
            Refusal: as `find`.
        """
        served = self.find(name)
        if served.model is None:
            return Vocabulary([])
        with served.lock:
            if served.vocabulary is None:
                served.vocabulary = Vocabulary.of(served.model)
            return served.vocabulary

    def describe(self) -> list[Described]:
        """All of them, for the page."""
        return [
            Described(
                name=one.name,
                loaded=one.model is not None,
                chat=None if one.model is None else bool(getattr(one.model.tokenizer, "chat_template", None)),
                n_layers=None if one.model is None else one.model.cfg.n_layers,
                n_heads=None if one.model is None else one.model.cfg.n_heads,
            )
            for one in self._served.values()
        ]
