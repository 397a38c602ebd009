"""In-memory store of the latest results, for downloads and repeated requests."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from lens_scopes.server.api.problems import Refusal
from lens_scopes.server.settings import Limits


@dataclass(frozen=True)
class StoredResult:
    """A result and its answer.

    Attributes:
        id: cannot be guessed, so that on a shared server it is known to those who asked for it alone.
        question: the request and its kind as text; the same question has the same answer.
        result: of the library.
        answer: the JSON that was sent.
        later: tokens of the prompt after the position explained.
    """

    id: str
    question: str
    result: Any
    answer: bytes
    later: list[str]


class Results:
    """A bounded number of results of bounded size, by id and by question."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stored: OrderedDict[str, StoredResult] = OrderedDict()
        self._ids: dict[str, str] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @staticmethod
    def new_id() -> str:
        """An id for a result to come."""
        return secrets.token_urlsafe(16)

    def keep(self, stored: StoredResult) -> None:
        """Keeps a result and forgets the oldest beyond the limits."""
        with self._lock:
            self._stored[stored.id] = stored
            self._ids[stored.question] = stored.id
            self._bytes += _size(stored)
            # The newest stays whatever its size: its answer is about to be downloaded.
            while len(self._stored) > 1 and (
                len(self._stored) > self._limits.kept or self._bytes > self._limits.kept_bytes
            ):
                _, oldest = self._stored.popitem(last=False)
                self._bytes -= _size(oldest)
                # A newer result may have answered the same question.
                if self._ids.get(oldest.question) == oldest.id:
                    del self._ids[oldest.question]

    def answer_to(self, question: str) -> StoredResult | None:
        """The result of the same question, where it is still kept."""
        with self._lock:
            stored = self._stored.get(self._ids.get(question, ""))
            if stored is not None:
                self._stored.move_to_end(stored.id)
            return stored

    def find(self, result_id: str) -> StoredResult:
        """The result of that id.

        Raises:
            Refusal: 404 where there is none.
        """
        with self._lock:
            if result_id not in self._stored:
                raise Refusal(404, "there is no such result, or it has been forgotten; make the request again.")
            self._stored.move_to_end(result_id)
            return self._stored[result_id]


def _size(stored: StoredResult) -> int:
    """An estimate: JSON takes more room than the tensors it was written from."""
    return 2 * len(stored.answer) + 4 * len(stored.question)
