"""What one client could do to the others, or without the token: each attack with what is left of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from command_line import PROMPT, Loader
from served import client, served_model, serving, wait_until

import lens_scopes.server.app as app_module
from lens_scopes.errors import LensScopesError
from lens_scopes.models.source import ModelSource
from lens_scopes.server import create_app
from lens_scopes.server.launch import _without_query, run
from lens_scopes.server.settings import Access, Limits


@pytest.fixture(scope="module")
def model() -> Any:
    return served_model()


def connected(address: str, said: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(said)
    return connection


HEADERS = b"POST /api/attribute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 20\r\n"


# Tokens


@pytest.mark.parametrize(
    "token", ["", " ", "short", "with a space in it", 'quote"semicolon;comma', "schlüssel-wort", "a" * 11]
)
def test_a_token_that_is_short_or_that_no_address_holds_is_refused(token: str, loader: Loader) -> None:
    with pytest.raises(LensScopesError, match="a token is 12 or more"):
        Access(token=token)
    with pytest.raises(LensScopesError, match="a token is 12 or more"):
        run([ModelSource()], host="0.0.0.0", port=0, token=token)
    assert loader.calls == []


def test_cookies_of_servers_on_other_ports_have_other_names(model: Any) -> None:
    app = create_app({"tiny": model}, access=Access(token="secret-token"))
    names = []
    for port in (8765, 9000):
        with client(app, base_url=f"http://127.0.0.1:{port}", follow_redirects=False) as api:
            names.append(api.get("/?token=secret-token").headers["set-cookie"].partition("=")[0])
            assert api.get("/api/about").status_code == 200
    assert names == ["lens_scopes_token_8765", "lens_scopes_token_9000"]


def test_no_token_reaches_the_log() -> None:
    arguments = ("127.0.0.1:1", "GET", "/?token=secret-token&q=typed", "1.1", 303)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', arguments, None)
    assert _without_query(record) and record.getMessage() == '127.0.0.1:1 - "GET / HTTP/1.1" 303'


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1#evil", "127.0.0.1/evil", "127.0.0.1?x", "user:pw@127.0.0.1", "evil.com@127.0.0.1", "127.0.0.1:abc",
     "127.0.0.1:", "127.0.0.1 ", "127.0.0.1:123456", "[::1", "[::1]x", "127.0.0.1,evil.com", "１27.0.0.1"],
)  # fmt: skip
def test_a_host_header_is_a_name_and_a_port(model: Any, host: str) -> None:
    with client(create_app({"tiny": model})) as api:
        assert api.get("/api/about", headers={"Host": host.encode()}).status_code == 421


# Connections, bodies, the queue and files


def test_unfinished_bodies_take_nobodys_place(model: Any) -> None:
    limits = Limits(body_seconds=1.0, bodies_per_client=300)
    with ExitStack() as held, serving(create_app({"tiny": model}, limits)) as address:
        begun = [held.enter_context(connected(address, HEADERS + b"\r\n")) for _ in range(240)]
        assert httpx.get(f"{address}/").status_code == 200
        assert b"408" in begun[0].recv(100)
        time.sleep(1.0)
        assert all(b"408" in connection.recv(100) for connection in begun[1:])


def test_the_unfinished_bodies_of_one_client_are_bounded(model: Any) -> None:
    limits = Limits(body_seconds=20.0, bodies_per_client=3)
    with ExitStack() as held, serving(create_app({"tiny": model}, limits)) as address:
        begun = [held.enter_context(connected(address, HEADERS + b"\r\n")) for _ in range(3)]
        time.sleep(0.3)
        assert b"503" in held.enter_context(connected(address, HEADERS + b"\r\n")).recv(100)
        begun[0].sendall(b'{"text": "The dog"}'.ljust(20))
        assert b"200 OK" in begun[0].recv(100)
        assert httpx.get(f"{address}/").status_code == 200


def test_headers_that_do_not_come_end_the_connection(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_scopes.server.connections.HEADER_SECONDS", 0.5)
    with ExitStack() as held, serving(create_app({"tiny": model})) as address:
        silent = [held.enter_context(connected(address, said)) for said in (b"", b"GET", HEADERS)]
        again = held.enter_context(connected(address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
        assert b"200 OK" in again.recv(1 << 20)
        again.sendall(b"GET /second HTT")
        for connection in silent:
            assert connection.recv(100) == b""
        while again.recv(1 << 20):
            pass


def test_the_connections_of_one_client_are_bounded(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_scopes.server.connections.MAX_PER_CLIENT", 5)
    with ExitStack() as held, serving(create_app({"tiny": model})) as address:
        open_ = [held.enter_context(connected(address, b"GET")) for _ in range(5)]
        time.sleep(0.2)
        assert held.enter_context(connected(address, b"")).recv(100) == b""
        open_.pop().close()
        time.sleep(0.2)
        assert httpx.get(f"{address}/api/about").status_code == 200


def test_one_client_has_a_share_of_the_queue(model: Any) -> None:
    go_on = threading.Event()

    def wait(values: Any, hook: Any) -> None:
        go_on.wait(30)

    app = create_app({"tiny": model}, Limits(waiting=6, waiting_per_client=2))
    queue = app.state.service.queue
    with serving(app) as address:

        def ask(position: int) -> httpx.Response:
            return httpx.post(f"{address}/api/attribute", json={"text": PROMPT, "position": position}, timeout=60)

        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", wait)]), ThreadPoolExecutor(6) as pool:
            waiting = [pool.submit(ask, 0)]
            wait_until(lambda: queue._running is not None)
            waiting += [pool.submit(ask, position) for position in (1, 2)]
            wait_until(lambda: len(queue._waiting) == 2)
            refused = ask(4)
            go_on.set()
            statuses = [item.result().status_code for item in waiting]
    assert statuses == [200, 200, 200]
    assert refused.status_code == 503 and "2 of your requests are waiting" in refused.json()["detail"]


def test_files_are_made_one_at_a_time_and_kept(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = app_module._contents

    def slow(*arguments: Any) -> bytes:
        made.append(threading.active_count())
        time.sleep(0.4)
        return make(*arguments)

    monkeypatch.setattr(app_module, "_contents", slow)
    with serving(create_app({"tiny": model})) as address:
        result = httpx.post(f"{address}/api/attribute", json={"text": PROMPT}, timeout=60).json()["id"]
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(httpx.get, f"{address}/api/results/{result}/html", timeout=60) for _ in range(40)]
            time.sleep(0.1)
            began = time.monotonic()
            assert httpx.get(f"{address}/api/about", timeout=60).status_code == 200
            assert time.monotonic() - began < 5
            statuses = [item.result().status_code for item in asked]
    assert len(made) == 1 and set(statuses) <= {200, 503} and statuses.count(200) >= 16


# What is typed, and what is sent back


@pytest.mark.parametrize(
    ("kind", "question"),
    [
        *((kind, {"text": "\ud800"}) for kind in ("attribute", "heads", "matrix", "modes")),
        ("attribute", {"chat": [{"role": "user", "content": "a\udfff"}]}),
        ("attribute", {"text": PROMPT, "scope": "\ud800"}),
        ("attribute", {"text": PROMPT, "\ud800": 1}),
        ("matrix", {"text": PROMPT, "spans": {"a": "\ud800"}}),
        ("matrix", {"text": PROMPT, "spans": {"\ud800": "dog"}}),
        ("heads", {"text": PROMPT, "head": ["\ud800"]}),
    ],
)
def test_a_lone_surrogate_is_refused(model: Any, kind: str, question: dict[str, Any]) -> None:
    with client(create_app({"tiny": model})) as api:
        headers = {"Content-Type": "application/json"}
        answer = api.post(f"/api/{kind}", content=json.dumps(question), headers=headers)
    assert answer.status_code == 422 and answer.json()["detail"]


@pytest.fixture
def small(model: Any) -> Iterator[Any]:
    with client(create_app({"tiny": model}, Limits(answer_bytes=3000))) as api:
        yield api


def test_an_answer_has_a_size(small: Any) -> None:
    answer = small.post("/api/heads", json={"text": PROMPT, "top": 8})
    assert answer.status_code == 413 and "ask for fewer heads" in answer.json()["detail"]


def test_numbers_of_an_answer_have_the_digits_that_they_have() -> None:
    import torch
    from tiny_models import gpt2_like

    import lens_scopes as ls
    from lens_scopes.server.work.answer import compact

    result = ls.attribute(gpt2_like(dtype=torch.float32), [0, 2, 3], ls.Fisher(), layers=True)
    written = json.dumps(compact(result, 10**6)["layers"])
    assert torch.equal(torch.tensor(json.loads(written), dtype=torch.float32), result.layers)
    assert len(written) < 0.75 * len(json.dumps(result.layers.tolist()))


# Starting


def test_two_servers_on_one_port_started_together_are_one_sentence(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lens_scopes.server import launch

    listen = launch._listen

    def overtaken(host: str, port: int) -> socket.socket:
        mine, other = listen(host, port), socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(mine.getsockname())
        other.listen()
        overtaking.append(other)
        return mine

    overtaking: list[socket.socket] = []
    monkeypatch.setattr(launch, "_listen", overtaken)
    with pytest.raises(LensScopesError, match="cannot listen at 127.0.0.1"):
        run([ModelSource()], port=0)
    overtaking.pop().close()


@pytest.mark.parametrize("host", ["", "\ud800", "a\0b", "nowhere.invalid", "1.2.3.4.5", "x" * 300])
def test_what_is_no_address_is_one_sentence(loader: Loader, host: str) -> None:
    with pytest.raises(LensScopesError, match="host|listen"):
        run([ModelSource()], host=host, port=0, token="a-long-enough-token")
    assert loader.calls == []
