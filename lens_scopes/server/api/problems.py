"""Errors as problem details (RFC 9457); `detail` is the message that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from lens_scopes.engine.memory import is_out_of_memory
from lens_scopes.errors import LensScopesError, OutOfMemoryError
from lens_scopes.results.storage.writing import utf8

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What was wrong, as RFC 9457 has it."""

    type: str = Field(description="The kind of error: a name of lens_scopes' error family, or about:blank.")
    title: str = Field(description="The meaning of the status.")
    status: int
    detail: str = Field(description="The sentence that the command line prints.")


class Refusal(HTTPException):
    """A request that is not answered, with the status and the sentence for it."""

    def __init__(self, status: int, detail: str, kind: str = "about:blank", headers: Mapping[str, str] | None = None):
        super().__init__(status, " ".join(utf8(detail).decode().splitlines()), dict(headers or {}))
        self.kind = kind

    def problem(self) -> Problem:
        """The problem details."""
        title = HTTPStatus(self.status_code).phrase
        return Problem(type=self.kind, title=title, status=self.status_code, detail=self.detail)

    def response(self) -> JSONResponse:
        """The problem details as a response."""
        return JSONResponse(self.problem().model_dump(), self.status_code, self.headers, MEDIA_TYPE)


class WorkCancelledError(Exception):
    """The work was told to stop."""


class TimeUpError(Exception):
    """The work took longer than it may."""


def refusal_of(error: BaseException, seconds: float) -> Refusal | None:
    """What an exception of the model work says to whoever asked; None for a defect.

    Args:
        error: what the work raised.
        seconds: the time limit, for the sentence on it.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, OutOfMemoryError):
        return Refusal(503, str(error), type(error).__name__)
    if isinstance(error, LensScopesError):
        return Refusal(422, str(error), type(error).__name__)
    if isinstance(error, WorkCancelledError):
        return Refusal(409, "the request was cancelled.")
    if isinstance(error, TimeUpError):
        return Refusal(
            503, f"the work took longer than {seconds:g} seconds (--seconds); shorten the prompt or ask for less."
        )
    if is_out_of_memory(error):
        return Refusal(503, "the model ran out of memory on this request; shorten the prompt or ask for less.")
    return None


def defect() -> Refusal:
    """What is said where lens_scopes itself is at fault."""
    return Refusal(500, "lens_scopes failed at this request, which is a defect of its own; the server's log has more.")


# What any request under /api may be answered with besides its own statuses.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, description in {
        400: "A header that makes no sense.",
        401: "The server wants its token.",
        403: "Another site asked.",
        408: "The body did not come in time.",
        404: "There is no such thing, or it has been forgotten.",
        409: "The request was cancelled.",
        413: "The request, the prompt or the answer is too large.",
        415: "The body is not JSON.",
        421: "The Host header names another server.",
        422: "The request does not fit the model; the sentence says what to do.",
        503: "The queue is full, or the work ran out of time or memory.",
    }.items()
}


async def on_refusal(request: Request, error: Exception) -> JSONResponse:
    """Handler for `Refusal`."""
    assert isinstance(error, Refusal)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Handler for what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
    sentences = {404: "there is nothing at this address.", 405: "this address does not answer that method."}
    sentence = sentences.get(error.status_code) or detail or HTTPStatus(error.status_code).phrase
    return Refusal(error.status_code, sentence, headers=error.headers).response()


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Handler for requests that do not fit their schema: one sentence on the first thing that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refusal(422, "the body is not valid JSON.", "RequestError").response()
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    message = first["msg"].removeprefix("Value error, ")
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    return Refusal(422, f"{place or 'the body'}: {message[:1].lower()}{message[1:]}{rest}.", "RequestError").response()
