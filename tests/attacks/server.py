"""Attacks on the server: hostile fields, raw bytes, hosts, tokens, slow and many clients, and schemathesis."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import httpx
import schemathesis
from command_line import PROMPT
from http_values import BAD_TOKENS, BODIES, HEAD, HOSTS, ORIGINS, PATHS, RAW, SITES, TOKEN
from hypothesis import HealthCheck, given, seed, settings
from number_models import SERIES, with_numbers
from outcome import REFUSED, RIGHT, Outcome, Target, ended, silence
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import client, serving
from tiny_models import llama_like
from values import OTHER_OBJECTS, OTHER_TEXTS, USUAL_OBJECTS, USUAL_TEXTS, some

import lens_scopes as ls
from lens_scopes.server import create_app
from lens_scopes.server.api import schemas
from lens_scopes.server.settings import Access, Limits
from lens_scopes.server.work.answer import compact

OTHER = "The sofa sleeps on the"
NUMBERS = "numbers"  # the model that reads series

_QUESTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "attribute": (schemas.AttributeRequest, {"text": PROMPT}),
    "heads": (schemas.HeadsRequest, {"text": "The dog", "top": 1, "verify": 1}),
    "cells": (schemas.CellsRequest, {"text": PROMPT, "against": OTHER, "verify": 1}),
    "matrix": (schemas.MatrixRequest, {"text": "The dog"}),
    "influence": (schemas.InfluenceRequest, {"text": "The dog", "generate": 2}),
    "modes": (schemas.ModesRequest, {"text": "The dog", "rank": 2}),
    "flow": (schemas.FlowRequest, {"text": PROMPT, "spans": {"a": "dog"}, "rank": 2, "samples": 2}),
    "series": (schemas.SeriesRequest, {"text": SERIES, "model": NUMBERS}),
    "alignment": (schemas.AlignmentRequest, {"text": PROMPT, "against": OTHER}),
}
_REFUSALS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 431, 503)


Request = tuple[str, Callable[[], str]]
"""A case, and what becomes of it."""


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every request, connection and crowd."""
    logging.disable(logging.CRITICAL)
    draw, model = random.Random(0), target.model
    models = {"tiny": model, NUMBERS: with_numbers(llama_like())}
    app = create_app(models, Limits(seconds=30.0))
    # uvicorn's handlers are for the main thread; TestClient runs the application in this process.
    with client(app) as api:
        yield from _hostile_fields(api, models, share, draw)
        for request in (*_hostile_bodies(api, models), *_other_sites(api), *_paths(api)):
            if draw.random() < 8 * share:
                yield ended(*request)
    with client(create_app({"tiny": model}, access=Access(token=TOKEN)), follow_redirects=False) as api:
        for request in _tokens(api):
            if draw.random() < 8 * share:
                yield ended(*request)
    yield from _raw(model)
    yield from _crowds(model, max(1, round(4 * share)))
    yield from _schemathesis(model, max(3, round(160 * share)))


# One request


def _hostile_fields(api: Any, models: dict[str, Any], share: float, draw: random.Random) -> Iterator[Outcome]:
    """Every field of every question at hostile values, as text and as JSON."""
    texts, objects = (USUAL_TEXTS, OTHER_TEXTS), tuple(map(_written, (USUAL_OBJECTS, OTHER_OBJECTS)))
    for kind, (schema, usual) in _QUESTIONS.items():
        for field in (*schema.model_fields, "unheard_of"):
            for value in itertools.chain(some(*texts, share / 2, draw), some(*objects, share / 2, draw)):
                question = {**usual, field: value}
                case = f"/api/{kind} {field}={json.dumps(value)[:40]}"
                yield ended(case, lambda kind=kind, question=question: _asked(api, models, kind, question))


def _written(values: tuple[Any, ...]) -> list[Any]:
    """Those values that JSON has."""
    written = []
    for value in values:
        with contextlib.suppress(TypeError, ValueError):
            written.append(json.loads(json.dumps(value)))
    return written


def _asked(api: Any, models: dict[str, Any], kind: str, question: Any) -> str:
    content = question if isinstance(question, bytes) else json.dumps(question).encode()
    answer = api.post(f"/api/{kind}", content=content, headers={"Content-Type": "application/json"})
    if answer.status_code in _REFUSALS:
        assert answer.json()["detail"] and PROMPT not in answer.headers.values()
        return REFUSED
    if answer.status_code != 200:
        raise RuntimeError(f"status {answer.status_code}: {answer.text[:80]}")
    if kind != "alignment":
        _check_right(models, answer.json())
    return RIGHT


def _check_right(models: dict[str, Any], answer: dict[str, Any]) -> None:
    """The numbers are those of the Python that the answer says gives the same."""
    names: dict[str, Any] = {}
    with mock.patch.object(ls, "load_model", lambda name, **_: models[name]), silence():
        exec(compile(answer["command"]["python"], "command", "exec"), names)
    mine = json.loads(json.dumps(compact(names["result"], 10**9)))
    for name in (
        "scores",
        "layers",
        "effect",
        "matrix",
        "modes",
        "replacements",
        "ablations",
        "cells",
        "totals",
        "influence",
        "eigenvalues",
        "leading",
        "distribution",
        "tokens",
    ):
        if name in mine:
            assert mine[name] == answer[name], f"other {name} than those of {answer['command']['python']!r}"


def _hostile_bodies(api: Any, models: dict[str, Any]) -> Iterator[Request]:
    for kind, body in itertools.product(_QUESTIONS, BODIES):
        yield (f"/api/{kind} {body[:30]!r}", lambda kind=kind, body=body: _asked(api, models, kind, body))


def _refused(answer: httpx.Response, *statuses: int) -> str:
    assert answer.status_code in statuses, f"status {answer.status_code}"
    return REFUSED


def _other_sites(api: Any) -> Iterator[Request]:
    """Names that are not this server's, and pages of others."""
    body = {"content": json.dumps({"text": PROMPT}), "headers": {"Content-Type": "application/json"}}
    for host, path in itertools.product(HOSTS, ("/", "/api/about")):
        headers = {"Host": host.encode("utf-8")}
        yield (f"Host {host!r}", lambda path=path, headers=headers: _refused(api.get(path, headers=headers), 421))
    for header, values in (("Origin", ORIGINS), ("Sec-Fetch-Site", SITES)):
        for value, kind in itertools.product(values, _QUESTIONS):
            headers = {**body["headers"], header: value}
            case = f"{header} {value} /api/{kind}"
            yield (
                case,
                lambda kind=kind, headers=headers: _refused(
                    api.post(f"/api/{kind}", content=body["content"], headers=headers), 403
                ),
            )
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonx",
    ):
        headers = {"Content-Type": kind}
        yield (
            f"Content-Type {kind!r}",
            lambda headers=headers: _refused(api.post("/api/attribute", content=body["content"], headers=headers), 415),
        )


def _paths(api: Any) -> Iterator[Request]:
    for path, method in itertools.product(PATHS, ("GET", "POST", "DELETE", "PUT", "OPTIONS")):
        yield (f"{method} {path[:60]}", lambda path=path, method=method: _nothing(api.request(method, path)))


def _nothing(answer: httpx.Response) -> str:
    if answer.status_code < 300:
        assert not any(word in answer.text for word in ("import ", "root:")), "a file that is not the page's"
        return RIGHT
    return _refused(answer, *_REFUSALS, 307, 414)


def _tokens(api: Any) -> Iterator[Request]:
    for token in (
        "",
        " ",
        "short",
        "with a space in it",
        "a" * 11,
        'quote"semicolon;',
        "schlüssel-wort",
        "\0" * 12,
    ):
        yield (f"a server with the token {token!r}", lambda token=token: _bad_token(token))
    for token in BAD_TOKENS:
        ways = {
            "bearer": {"headers": {"Authorization": f"Bearer {token}".encode()}},
            "cookie": {"headers": {"Cookie": f"lens_scopes_token_8765={token}".encode()}},
            "a cookie of another port": {"headers": {"Cookie": f"lens_scopes_token_9={TOKEN}".encode()}},
            "address": {"params": {"token": token}},
        }
        for (way, how), path in itertools.product(ways.items(), ("/", "/api/about")):
            yield (
                f"token {token[:20]!r} by {way} at {path}",
                lambda path=path, how=how: _refused(api.get(path, **how), 401),
            )


def _bad_token(token: str) -> str:
    Access(token=token)
    raise AssertionError("taken")


# Connections


def _connected(address: str, said: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    with contextlib.suppress(OSError):  # the server may close while it is being told
        connection.sendall(said)
    return connection


def _raw(model: Any) -> Iterator[Outcome]:
    """Bytes that are no request; afterwards everyone is answered."""
    patience = mock.patch("lens_scopes.server.connections.HEADER_SECONDS", 0.3)
    with patience, serving(create_app({"tiny": model}, Limits(body_seconds=0.5))) as address:
        for said in RAW:

            def told(said: bytes = said) -> str:
                answer = b""
                with contextlib.closing(_connected(address, said)) as connection, contextlib.suppress(ConnectionError):
                    while part := connection.recv(1 << 16):
                        answer += part
                        if b"200 OK" in answer:
                            break
                assert b" 500 " not in answer[:20], "a defect"
                assert httpx.get(f"{address}/api/about").status_code == 200, "nobody is answered any more"
                return REFUSED if answer[9:10] in (b"4", b"5", b"") else RIGHT

            yield ended(f"bytes {said[:60]!r}", told)


def _crowds(model: Any, times: int) -> Iterator[Outcome]:
    """Many clients at once, and slow ones: the page is there for the others."""
    for number in range(times):
        yield ended(f"270 bodies that do not come, {number}", lambda: _bodies(model))
        yield ended(f"headers that do not come, {number}", lambda: _headers(model))
        yield ended(f"60 downloads at once, {number}", lambda: _downloads(model))
        yield ended(f"a client that fills the queue, {number}", lambda: _queue(model))
        yield ended(f"100 requests at once, {number}", lambda: _requests(model))


def _bodies(model: Any) -> str:
    begun = HEAD + b"Content-Length: 20\r\n\r\n"
    app = create_app({"tiny": model}, Limits(body_seconds=1.0, bodies_per_client=300))
    with contextlib.ExitStack() as held, serving(app) as address:
        open_ = [held.enter_context(contextlib.closing(_connected(address, begun))) for _ in range(240)]
        assert httpx.get(f"{address}/").status_code == 200, "the page is not there"
        ends = [connection.recv(100) for connection in open_]
        assert all(b"408" in end or b"503" in end for end in ends), "a body is awaited for ever"
    return RIGHT


def _headers(model: Any) -> str:
    patience = mock.patch("lens_scopes.server.connections.HEADER_SECONDS", 0.5)
    with patience, contextlib.ExitStack() as held, serving(create_app({"tiny": model})) as address:
        open_ = [held.enter_context(contextlib.closing(_connected(address, b"GET / HT"))) for _ in range(250)]
        assert httpx.get(f"{address}/").status_code == 200, "the page is not there"
        assert all(connection.recv(100) == b"" for connection in open_), "headers are awaited for ever"
    return RIGHT


def _downloads(model: Any) -> str:
    with serving(create_app({"tiny": model})) as address, ThreadPoolExecutor(60) as pool:
        result = httpx.post(f"{address}/api/matrix", json={"text": PROMPT}, timeout=60).json()["id"]
        asked = [pool.submit(httpx.get, f"{address}/api/results/{result}/html", timeout=60) for _ in range(60)]
        began = time.monotonic()
        assert httpx.get(f"{address}/api/about", timeout=60).status_code == 200
        assert time.monotonic() - began < 10, "the page waits for downloads"
        answers = [item.result() for item in asked]
    pages = {answer.content for answer in answers if answer.status_code == 200}
    assert len(pages) == 1 and {answer.status_code for answer in answers} <= {200, 503}
    return RIGHT


def _queue(model: Any) -> str:
    """One client asks for more than its share; what runs and what another asks is answered."""
    go_on = threading.Event()

    def wait(values: Any, hook: Any) -> None:
        go_on.wait(30)

    app = create_app({"tiny": model}, Limits(waiting=6, waiting_per_client=2))
    with serving(app) as address:

        def ask(position: int) -> int:
            return httpx.post(
                f"{address}/api/attribute", json={"text": PROMPT, "position": position}, timeout=60
            ).status_code

        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", wait)]), ThreadPoolExecutor(6) as pool:
            waiting = [pool.submit(ask, position) for position in range(3)]
            began = time.monotonic()
            while len(app.state.service.queue._jobs()) < 3 and time.monotonic() - began < 20:
                time.sleep(0.05)
            refused = ask(4)
            go_on.set()
            assert [item.result() for item in waiting] == [200, 200, 200] and refused == 503
    return RIGHT


def _requests(model: Any) -> str:
    wanted = ls.attribute(model, PROMPT, ls.Fisher("trace", samples=2, seed=7)).scores.tolist()
    with (
        serving(create_app({"tiny": model}, Limits(waiting=64, waiting_per_client=64))) as address,
        ThreadPoolExecutor(50) as pool,
    ):

        def ask(index: int) -> httpx.Response:
            question = {"text": PROMPT, "scope": "fisher", "rank": "trace", "samples": 2, "seed": index % 8}
            return httpx.post(f"{address}/api/attribute", json=question, timeout=60)

        answers = list(pool.map(ask, range(100)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    right = [answer.json()["scores"] for answer in answers if answer.status_code == 200 and _seed(answer) == 7]
    assert right and all(scores == wanted for scores in right), "other numbers"
    return RIGHT


def _seed(answer: httpx.Response) -> int:
    return answer.json()["settings"]["objective"]["seed"]


def _schemathesis(model: Any, examples: int) -> Iterator[Outcome]:
    """Requests made from the description of every operation: answers are as described."""
    access = Access(hosts=frozenset({"localhost", "testserver"}))
    app = create_app({"tiny": model}, Limits(seconds=20.0), access)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()
        for number in range(examples):
            yield ended(f"schemathesis {operation.label} {number}", lambda o=operation, n=number: _as_described(o, n))


def _as_described(operation: Any, number: int) -> str:
    statuses: list[int] = []

    @seed(number)
    @settings(max_examples=1, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        statuses.append(case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code)

    call()
    return REFUSED if statuses and statuses[-1] >= 400 else RIGHT
