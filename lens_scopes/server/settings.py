"""Limits of requests, and access to the server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lens_scopes.errors import LensScopesError

SHORTEST_TOKEN = 12
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{SHORTEST_TOKEN},}}")


@dataclass(frozen=True)
class Limits:
    """The most that requests may ask for; beyond it they are refused with a 4xx or 503 that names the limit.

    Attributes:
        prompt_characters: of a text, or of all messages of a chat together.
        prompt_tokens: of a prompt, once tokenized, and the answer explained after it.
        generated_tokens: that the model may add before a matrix, or as the answer explained.
        directions: of an exact divergence along an answer, each with a backward pass of its own.
        points: where gradients are averaged.
        request_bytes: of the body of a request.
        body_seconds: for a client to send the body of a request.
        bodies_per_client: requests of one client whose bodies are awaited.
        answer_bytes: of an answer as JSON.
        waiting: questions in the queue behind the one that is running; equal ones are one.
        waiting_per_client: those of them that one client waits for.
        requests_per_client: requests of one client that wait for an answer, equal ones counted each.
        seconds: of model work for one request.
        kept: results that downloads and repeated requests can still find; the oldest are forgotten.
        kept_bytes: of all kept results together.
    """

    prompt_characters: int = 20_000
    prompt_tokens: int = 512
    generated_tokens: int = 64
    directions: int = 256
    points: int = 64
    request_bytes: int = 200_000
    body_seconds: float = 10.0
    bodies_per_client: int = 32
    answer_bytes: int = 32_000_000
    waiting: int = 16
    waiting_per_client: int = 8
    requests_per_client: int = 64
    seconds: float = 120.0
    kept: int = 64
    kept_bytes: int = 256_000_000


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: the names that the Host header may carry; a page that resolves its own name to this machine (DNS
            rebinding) sends another one.
        any_address: the Host header may carry any numeric address too, which no page can make its own name.
        token: what every request must show, as a bearer token or by the cookie that `/?token=…` sets; None for none.
        frame_ancestors: origins that may show the page in a frame; none by default.

    Raises:
        LensScopesError: for a token that is short, as an empty one that everyone has, or that no address can hold.
    """

    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})
    any_address: bool = False
    token: str | None = None
    frame_ancestors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise LensScopesError(
                f"a token is {SHORTEST_TOKEN} or more letters, digits and . _ ~ -, and this one has {len(self.token)} "
                "characters or others; leave it out for one that is made up."
            )
