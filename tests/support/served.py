"""Tiny models behind a server: a test client, and a real server on a free port for browsers and parallel requests."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from command_line import tokenizer
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny_models import gpt2_like

from lens_scopes.server.connections import PatientProtocol

ADDRESS = "http://127.0.0.1:8765"


def served_model(**options: Any) -> Any:
    """A tiny model that reads words."""
    model = gpt2_like(**options)
    model.tokenizer = tokenizer()
    return model


def chat_model() -> Any:
    """The tiny model with a chat template."""
    model = served_model()
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}.{% endfor %}"
    return model


def client(app: FastAPI, **options: Any) -> TestClient:
    """A client that asks as a browser on this machine would."""
    return TestClient(app, **({"base_url": ADDRESS, "raise_server_exceptions": False} | options))


def events(text: str) -> list[tuple[str, str]]:
    """The names and the data of server-sent events."""
    return [
        (name.removeprefix("event: "), data.removeprefix("data: "))
        for name, data in (event.split("\n", 1) for event in text.split("\n\n") if event)
    ]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of a real server, in a thread of this process."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, http=PatientProtocol, log_level="error", ws="none", timeout_graceful_shutdown=3)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
