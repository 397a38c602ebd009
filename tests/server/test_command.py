"""`lens-scopes serve` and the public page: what they listen to, whom they answer, and which models they load when."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from command_line import PROMPT, Loader, Run
from fastapi import FastAPI
from served import client

from lens_scopes.server import run_space


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[FastAPI, str]]]:
    """The applications that would have been served, each with its address."""
    found: list[tuple[FastAPI, str]] = []

    def serve(app: FastAPI, listening: socket.socket, **options: Any) -> None:
        with closing(listening):
            found.append((app, listening.getsockname()[0]))

    monkeypatch.setattr("lens_scopes.server.launch.serve", serve)
    yield found


def test_the_page_is_served_to_this_machine_alone(
    run: Callable[..., Run],
    loader: Loader,
    served: list[tuple[FastAPI, str]],
) -> None:
    done = run("serve", "--port", "0", "--prompt-tokens", "5", "--seconds", "7", "--dtype", "float64")
    assert (done.status, done.out) == (0, "")
    assert "serving gemma-3-270m at http://127.0.0.1:" in done.err and "token" not in done.err
    assert [call[1]["dtype"] for call in loader.calls] == ["float64"]
    app, address = served[0]
    assert address == "127.0.0.1"
    with client(app) as api:
        limits = api.get("/api/about").json()["limits"]
        assert (limits["prompt_tokens"], limits["seconds"]) == (5, 7)
        assert api.post("/api/attribute", json={"text": PROMPT}).status_code == 413
        answer = api.post("/api/attribute", json={"text": "The dog"}).json()
        assert "dtype='float64'" in answer["command"]["python"]
        assert answer["command"]["shell"].endswith("--dtype float64")
        assert api.get("/", headers={"Host": "192.168.1.7"}).status_code == 421


def test_another_address_is_served_with_a_token(
    run: Callable[..., Run],
    loader: Loader,
    served: list[tuple[FastAPI, str]],
) -> None:
    done = run("serve", "--port", "0", "--host", "0.0.0.0", "--name", "Lens.Example")
    token = done.err.partition("?token=")[2].split()[0]
    assert len(token) > 16 and served[0][1] == "0.0.0.0"
    with client(served[0][0]) as api:
        shown = {"Authorization": f"Bearer {token}"}
        assert api.get("/api/about").status_code == 401
        for host in ("lens.example", "192.168.1.7:80", "127.0.0.1"):
            assert api.get("/api/about", headers=shown | {"Host": host}).status_code == 200
        assert api.get("/api/about", headers=shown | {"Host": "evil.example"}).status_code == 421
    run("serve", "--port", "0", "--token", "chosen-token")
    with client(served[1][0]) as api:
        assert api.get("/api/about").status_code == 401


def test_further_models_are_loaded_when_first_asked_for(
    run: Callable[..., Run],
    loader: Loader,
    served: list[tuple[FastAPI, str]],
) -> None:
    run("serve", "--port", "0", "--also", "gpt2", "--also", "./folder")
    assert [call[0] for call in loader.calls] == ["gemma-3-270m"]
    with client(served[0][0]) as api:
        models = api.get("/api/about").json()["models"]
        assert [(model["name"], model["loaded"]) for model in models] == [
            ("gemma-3-270m", True),
            ("gpt2", False),
            ("./folder", False),
        ]
        assert api.get("/api/vocabulary", params={"q": "dog", "model": "gpt2"}).json() == []
        answer = api.post("/api/attribute", json={"text": PROMPT, "model": "gpt2"}).json()
        assert "--model gpt2" in answer["command"]["shell"]
        assert [call[0] for call in loader.calls] == ["gemma-3-270m", "gpt2"]
        assert api.get("/api/vocabulary", params={"q": "dog", "model": "gpt2"}).json()[0]["token"] == " dog"


def test_an_address_in_use_is_known_before_the_model_is_loaded(
    run: Callable[..., Run],
    loader: Loader,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--port", str(taken.getsockname()[1]))
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "cannot listen at 127.0.0.1" in done.err
    assert run("serve", "--host", "nowhere.invalid").status == 2
    assert loader.calls == []


def test_the_public_page_answers_to_the_name_it_is_given(
    loader: Loader,
    served: list[tuple[FastAPI, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPACE_HOST", "someone-lens.hf.space")
    run_space(port=0)
    app, address = served[0]
    assert address == "0.0.0.0" and [call[0] for call in loader.calls] == ["gemma-3-270m"]
    with client(app) as api:
        page = api.get("/", headers={"Host": "someone-lens.hf.space", "Sec-Fetch-Site": "cross-site"})
        assert page.status_code == 200
        assert "frame-ancestors https://huggingface.co" in page.headers["content-security-policy"]
        assert api.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert api.get("/api/about").json()["limits"]["prompt_tokens"] == 256
        proxied = {"Host": "someone-lens.hf.space", "Origin": "https://someone-lens.hf.space"}
        assert api.post("/api/attribute", json={"text": PROMPT}, headers=proxied).status_code == 200
