"""The FastAPI application and its routes."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from lens_scopes import __version__
from lens_scopes.errors import LensScopesError
from lens_scopes.models.source import ModelSource
from lens_scopes.results.storage.writing import as_json, utf8
from lens_scopes.server.api.commands import command_of
from lens_scopes.server.api.examples import EXAMPLES
from lens_scopes.server.api.problems import (
    DOCUMENTED,
    Problem,
    Refusal,
    on_http_error,
    on_invalid,
    on_refusal,
    refusal_of,
)
from lens_scopes.server.api.schemas import (
    About,
    Alignment,
    AlignmentRequest,
    AttributeRequest,
    AttributionAnswer,
    CellsAnswer,
    CellsRequest,
    FlowAnswer,
    FlowRequest,
    HeadsAnswer,
    HeadsRequest,
    InfluenceAnswer,
    InfluenceRequest,
    MatrixAnswer,
    MatrixRequest,
    ModesAnswer,
    ModesRequest,
    Name,
    SeriesAnswer,
    SeriesRequest,
    SuggestionsRequest,
    VocabularyEntry,
    choices,
)
from lens_scopes.server.guard import Guard
from lens_scopes.server.settings import Access, Limits
from lens_scopes.server.work.answer import compact, refuse_large_answer
from lens_scopes.server.work.explain import Explanation, align, explain, next_probabilities, refuse_early
from lens_scopes.server.work.queue import Job, Ticket, WorkQueue
from lens_scopes.server.work.reports import Reports
from lens_scopes.server.work.result_store import Results, StoredResult
from lens_scopes.server.work.served_models import ServedModel, ServedModels
from lens_scopes.views.page.document import CONTENT_SECURITY_POLICY
from lens_scopes.views.page.inline import bundle
from lens_scopes.views.page.pages import attribution_page, page_of
from lens_scopes.views.render import figure_bytes
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.pages.parts.blocks import LABELS

_TYPES = {".css": "text/css", ".js": "text/javascript"}
_PAGES = ("server/page", "views/page")
_EVENTS = "text/event-stream"
_MAX_ENTRIES = 50
_MAX_PREDICTIONS = 4
_DOTS_PER_INCH = 200
_MAX_COMPANIONS = 7
_NAME_CHARACTERS = 40  # characters of a prompt in the name of a file


class Service:
    """What the addresses share: the models, the queue, and the last results."""

    def __init__(self, models: ServedModels, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.queue = WorkQueue(limits)
        self.results = Results(limits)
        self.reports = Reports()
        self._predictions: OrderedDict[str, Any] = OrderedDict()

    def submit(self, request: Explanation, client: str = "") -> Ticket | bytes:
        """Queues the work of a request, or joins that of the same request; the answer itself where there is one.

        Raises:
            Refusal: where the queue is full, or the request is beyond the limits.
            LensScopesError: for choices that do not fit.
        """
        served = self.models.find(request.model)
        refuse_early(request, self.limits)
        question = f"{type(request).__name__} {served.name} {request.model_dump_json(exclude={'model'})}"
        stored = self.results.answer_to(question)
        if stored is not None:
            return stored.answer
        return self.queue.submit(lambda job: self._answer(request, question, job), client, question)

    async def probabilities(self, request: SuggestionsRequest, client: str = "") -> Any:
        """The probabilities of the next token where they can be had at once: nobody waits for suggestions."""
        served = self.models.find(request.model)
        key = f"next {served.name} {request.model_dump_json(include={'text', 'chat', 'position'})}"
        if key in self._predictions:
            return self._predictions[key]
        model = served.model
        if model is None or not self.queue.idle:
            return None
        ticket = self.queue.submit(lambda job: next_probabilities(model, request, self.limits, job), client, key)
        async with aclosing(self.queue.updates(ticket)) as updates:
            async for _ in updates:
                pass
        if ticket.refusal is not None:  # asking the question itself says what is wrong
            return None
        self._predictions[key] = ticket.result
        while len(self._predictions) > _MAX_PREDICTIONS:
            self._predictions.popitem(last=False)
        return ticket.result

    def _answer(self, request: Explanation, question: str, job: Job) -> bytes:
        stored = self.results.answer_to(question)
        if stored is not None:  # the same request was answered between the two looks
            return stored.answer
        model = self.models.load(request.model)
        prompt, result = explain(model, request, self.limits, job)
        result_id = Results.new_id()
        command = command_of(request, self.models.find(request.model).options).model_dump()
        numbers = compact(result, self.limits.answer_bytes)
        content = as_json({"id": result_id, "kind": result.kind, **numbers, "command": command}).encode()
        refuse_large_answer(len(content), self.limits.answer_bytes)
        later = list(prompt.tokens[len(result.tokens) :])
        self.results.keep(StoredResult(result_id, question, result, content, later))
        return content


def create_app(
    models: ServedModels | dict[str, Any],
    limits: Limits | None = None,
    access: Access | None = None,
) -> FastAPI:
    """The page and its API.

    Args:
        models: those that requests may name; a mapping from names to loaded models will do.
        limits: of what requests may ask for.
        access: who may ask.
    """
    if isinstance(models, dict):
        models = ServedModels([ServedModel(ModelSource(model=name), model) for name, model in models.items()])
    limits = limits or Limits()
    service = Service(models, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.queue.open()
        yield
        service.queue.stop()

    app = FastAPI(
        title="lens_scopes",
        version=__version__,
        description="Jacobian Scopes of language models: the API under the local page.",
        docs_url=None,  # FastAPI's pages load their scripts from other hosts
        redoc_url=None,
        responses=DOCUMENTED,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    _add_page(app)
    _add_questions(app, service)
    _add_lists(app, service)
    _add_results(app, service)
    _describe_problems(app)
    app.add_middleware(Guard, access=access or Access(), limits=limits)
    return app


def _add_page(app: FastAPI) -> None:
    """The page with its styles and scripts, and those of every page, at their places in the package; read once."""
    package = Path(__file__).parents[1]
    index = (package / "server/page/index.html").read_bytes()
    contents = {
        path.relative_to(package).as_posix(): path.read_bytes()
        for page in _PAGES
        for path in (package / page).rglob("*")
        if path.suffix in _TYPES
    }
    contents["views/page/bundle.js"] = bundle().encode()

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(index, media_type="text/html")

    @app.get("/{folder}/page/{name:path}", include_in_schema=False)
    def part(folder: str, name: str) -> Response:
        content = contents.get(f"{folder}/page/{name}")
        if content is None:
            raise HTTPException(404)
        # A megabyte that changes with the version of CircuitsVis alone.
        headers = {"Cache-Control": "max-age=3600"} if name == "bundle.js" else None
        return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)


def _add_questions(app: FastAPI, service: Service) -> None:
    """The addresses that have the model work."""

    # Each route gives one answer, or events on the way to it.
    def answers(model: type[object]) -> dict[str, Any]:
        description = "The result; or, where the Accept header asks for text/event-stream, events: `progress` with how "
        description += "far the work is, then `result` with the result or `problem` with problem details."
        return {
            "response_model": None,
            "dependencies": [Depends(_json_only)],
            "responses": {
                200: {
                    "description": description,
                    "model": model,
                    "content": {_EVENTS: {"schema": {"type": "string"}}},
                }
            },
        }

    # One route per kind of result.
    @app.post("/api/attribute", **answers(AttributionAnswer))
    async def attribute(question: AttributeRequest, request: Request) -> Response:
        """Which tokens, at which layers, made the model predict that."""
        return await _respond(service, question, request)

    @app.post("/api/heads", **answers(HeadsAnswer))
    async def heads(question: HeadsRequest, request: Request) -> Response:
        """Which heads and MLPs did, checked by ablation."""
        return await _respond(service, question, request)

    @app.post("/api/cells", **answers(CellsAnswer))
    async def cells(question: CellsRequest, request: Request) -> Response:
        """What another prompt changes at every layer and token, the strongest cells patched."""
        return await _respond(service, question, request)

    @app.post("/api/matrix", **answers(MatrixAnswer))
    async def matrix(question: MatrixRequest, request: Request) -> Response:
        """The influence of every token on every later prediction."""
        return await _respond(service, question, request)

    @app.post("/api/influence", **answers(InfluenceAnswer))
    async def influence(question: InfluenceRequest, request: Request) -> Response:
        """What a part of a generated text rests on in the prompt, through the generated text before it."""
        return await _respond(service, question, request)

    @app.post("/api/modes", **answers(ModesAnswer))
    async def modes(question: ModesRequest, request: Request) -> Response:
        """What the leading Fisher directions mean."""
        return await _respond(service, question, request)

    @app.post("/api/flow", **answers(FlowAnswer))
    async def flow(question: FlowRequest, request: Request) -> Response:
        """How much each span of the prompt could tell through the predictions after it."""
        return await _respond(service, question, request)

    @app.post("/api/series", **answers(SeriesAnswer))
    async def series(question: SeriesRequest, request: Request) -> Response:
        """Which past numbers of a series the forecast rests on, and the forecast over values."""
        return await _respond(service, question, request)

    # The way out of all of them.
    @app.delete("/api/jobs/{job}", status_code=204, response_class=Response)
    def cancel(job: Name) -> None:
        """Cancels a waiting or running request, by the `job` of its progress events."""
        service.queue.cancel(service.queue.find(job))


def _json_only(request: Request) -> None:
    """Refuses what a form of another site could send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON, with the content type application/json.")


async def _respond(service: Service, question: Explanation, request: Request) -> Response:
    try:
        claim = service.submit(question, request.client.host if request.client else "")
    except Exception as error:
        refusal = refusal_of(error, service.limits.seconds)
        if refusal is None:
            raise
        raise refusal from None
    if _EVENTS in request.headers.get("accept", ""):
        return StreamingResponse(_events(service.queue, claim), media_type=_EVENTS)
    # A client that leaves cancels its work: closing the updates gives up the ticket.
    if isinstance(claim, Ticket):
        async with aclosing(service.queue.updates(claim)) as updates:
            async for _ in updates:
                if await request.is_disconnected():
                    raise Refusal(409, "the request was cancelled.")
        if claim.refusal is not None:
            raise claim.refusal
        claim = claim.result
    return Response(claim, media_type="application/json")


async def _events(queue: WorkQueue, claim: Ticket | bytes) -> AsyncIterator[bytes]:
    if isinstance(claim, bytes):
        yield _event("result", claim)
        return
    async with aclosing(queue.updates(claim)) as updates:
        async for progress in updates:
            yield _event("progress", progress.model_dump_json().encode())
    if claim.refusal is None:
        yield _event("result", claim.result)
    else:
        yield _event("problem", claim.refusal.problem().model_dump_json().encode())


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"  # JSON has no line breaks of its own


def _add_lists(app: FastAPI, service: Service) -> None:
    """What there is to choose from."""

    # Read from the registries and the options that the server was started with: no model works here.
    @app.get("/api/about")
    def about() -> About:
        """Models, scopes, limits and examples of this server."""
        limits = service.limits
        return About(
            version=__version__,
            models=service.models.describe(),
            **choices(),
            limits={
                "prompt_characters": limits.prompt_characters,
                "prompt_tokens": limits.prompt_tokens,
                "generated_tokens": limits.generated_tokens,
                "seconds": limits.seconds,
            },
            examples=list(EXAMPLES),
            labels=LABELS,
        )

    # Small enough to be answered at once, beside the queue.
    @app.post("/api/alignment", dependencies=[Depends(_json_only)])
    def alignment(question: AlignmentRequest) -> Alignment:
        """Where two prompts differ, token by token, before anything is asked about them."""
        served = service.models.find(question.model)
        if served.model is None:
            return Alignment(aligned=None)
        try:
            return align(served.model, question, service.limits)
        except LensScopesError as error:
            refusal = refusal_of(error, service.limits.seconds)
            assert refusal is not None
            raise refusal from None

    @app.get("/api/vocabulary")
    def vocabulary(
        q: Annotated[str, Query(max_length=200)],
        model: Annotated[Name | None, Query()] = None,
        most: Annotated[int, Query(ge=1, le=_MAX_ENTRIES)] = 12,
    ) -> list[VocabularyEntry]:
        """Tokens that begin with or hold what was typed, for completion."""
        return service.models.vocabulary(model).search(q, most)

    @app.post("/api/suggestions", dependencies=[Depends(_json_only)])
    async def suggestions(question: SuggestionsRequest, request: Request) -> list[VocabularyEntry]:
        """The same with the probability of each after a prompt, from the most probable on; as `vocabulary` while the
        model is at work."""
        vocabulary = service.models.vocabulary(question.model)
        likely = await service.probabilities(question, request.client.host if request.client else "")
        return vocabulary.search(question.q, question.most, likely)


def _add_results(app: FastAPI, service: Service) -> None:
    """Results that were computed, as files."""

    @app.get("/api/results/{result_id}/{kind}", response_class=Response, responses=_FILES)
    async def result_file(
        result_id: Name,
        kind: Literal["html", "page", "png", "svg", "safetensors", "csv", "json"],
        include: Annotated[list[Name], Query(max_length=_MAX_COMPANIONS, alias="with")] = [],  # noqa: B006
        download: bool = False,
    ) -> Response:
        """The self-contained report (with other results on the same page), what it draws as JSON (for the page of this
        server), the safetensors, the CSV, or the JSON."""
        stored, others = service.results.find(result_id), [service.results.find(other) for other in include]
        key = (kind, result_id, *include)
        content = await service.reports.content(key, lambda: _contents(stored, kind, others))
        name = _file_name(stored.result, kind)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'} if download else {}
        if kind == "html":
            # The report brings its own scripts, so it lives in a sandbox: without an origin, it can reach nothing here.
            headers["Content-Security-Policy"] = (
                f"{CONTENT_SECURITY_POLICY}; sandbox allow-scripts; frame-ancestors 'none'"
            )
        return Response(content, media_type=_MEDIA_TYPES[kind], headers=headers)


def _file_name(result: Any, kind: str) -> str:
    """The kind of the result and the last words of its prompt, as far as every system takes them in a name."""
    words = re.findall(r"[A-Za-z0-9]+", prompt_text(result)[-_NAME_CHARACTERS:])
    return f"{'-'.join([result.kind, *words]).lower()}.{kind}"


_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "page": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "safetensors": "application/octet-stream",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {media.partition(";")[0]: {} for media in _MEDIA_TYPES.values()},
    }
}


def _contents(stored: StoredResult, kind: str, others: list[StoredResult]) -> bytes:
    """A result as the contents of a file.

    Raises:
        Refusal: 422 where other results are to be on a page that takes none.
    """
    result = stored.result
    if kind == "json":
        return stored.answer
    if kind == "csv":
        return utf8(result.to_pandas().to_csv(index=False))
    if kind == "safetensors":
        return result.to_safetensors()
    if kind in ("png", "svg"):
        return figure_bytes(result, kind, dpi=_DOTS_PER_INCH)
    companions = {other.result.kind: other.result for other in others}
    later = stored.later if kind == "page" else []
    if result.kind == "attribution" and "attribution" not in companions:
        page = attribution_page(result, **companions, later=later)
    elif companions:
        raise Refusal(
            422, "only an attribution's report takes others: heads, cells, matrix, influence, modes, flow or series."
        )
    else:
        page = page_of(result)
    if kind == "html":
        return page.to_html().encode()
    return as_json({"title": page.title, **page.content()}).encode()


def _describe_problems(app: FastAPI) -> None:
    """Has the OpenAPI description carry the schema of problem details, in place of FastAPI's own errors."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = original()
            schemas = description["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return app.openapi_schema or {}

    app.openapi = openapi
