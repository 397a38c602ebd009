"""Starts the server: `run` on this machine, `run_space` on a hosting platform."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from lens_scopes.errors import LensScopesError
from lens_scopes.models.source import ModelSource
from lens_scopes.server.app import create_app
from lens_scopes.server.connections import PatientProtocol
from lens_scopes.server.settings import Access, Limits
from lens_scopes.server.work.served_models import ServedModel, ServedModels

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
SPACE_PORT = 7860
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def run(
    models: Sequence[ModelSource],
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    names: Sequence[str] = (),
    limits: Limits | None = None,
    log_requests: bool = False,
    open_page: bool = False,
) -> None:
    """Loads the first model and serves the page until SIGINT or SIGTERM, which end it with status 0.

    Args:
        models: those that requests may name.
        host: the address to listen at. Any other than 127.0.0.1 takes a token, which is made up where none is given.
        port: 0 for a free one.
        token: what every request must show: 12 or more letters, digits and . _ ~ -.
        names: further host names that the server is reached by.
        limits: of what requests may ask for.
        log_requests: log the path of every request; nothing that is typed, nor the token, is in it.
        open_page: open the page in a browser.

    Raises:
        LensScopesError: when the first model cannot be loaded, or the address cannot be listened at.
    """
    served = [ServedModel(options) for options in models]
    if token is None and host not in _LOCAL:
        token = secrets.token_urlsafe(16)
    Access(token=token)  # refused before anything is opened or loaded
    listening = _listen(host, port)
    bound = listening.getsockname()[1]
    everywhere = host in ("0.0.0.0", "::")
    display = "127.0.0.1" if everywhere else host
    address = f"http://{f'[{display}]' if ':' in display else display}:{bound}/" + (
        f"?token={quote(token, safe='')}" if token else ""
    )
    hosts = _LOCAL | {host.lower(), *(name.lower() for name in names)}
    access = Access(hosts=hosts, any_address=everywhere, token=token)
    models_at_hand = ServedModels(served)
    models_at_hand.load(None)
    _warm(models_at_hand)
    try:
        listening.listen()  # from here on a browser waits, where it was refused before
    except OSError as error:  # another server that started meanwhile was faster
        raise _cannot_listen(host, bound, error) from error
    print(f"lens-scopes: serving {served[0].name} at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if open_page:
        import webbrowser

        webbrowser.open(address)
    serve(create_app(models_at_hand, limits, access), listening, log_requests=log_requests)


def run_space(model: str = "gemma-3-270m", *, port: int = SPACE_PORT) -> None:
    """Serves one model to everyone, as a public Space: the whole of its `app.py`.

    It listens on every address, asks for no token, answers to the name in the environment variable SPACE_HOST, and
    lets the platform's own site show it in a frame. Limits are tighter than on a machine of one's own.
    """
    names = {name.strip().lower() for name in os.environ.get("SPACE_HOST", "").split(",") if name.strip()}
    frames = ("https://huggingface.co", "https://*.hf.space")
    access = Access(hosts=_LOCAL | names, any_address=True, frame_ancestors=frames)
    # Everyone comes by the platform's own address, so there are no shares.
    limits = Limits(
        prompt_characters=4_000,
        prompt_tokens=256,
        generated_tokens=32,
        waiting=24,
        waiting_per_client=24,
        requests_per_client=192,
        bodies_per_client=128,
        seconds=60.0,
    )
    models = ServedModels([ServedModel(ModelSource(model=model))])
    listening = _listen("0.0.0.0", port)
    models.load(None)
    _warm(models)
    serve(create_app(models, limits, access), listening)


def serve(app: FastAPI, listening: socket.socket, *, log_requests: bool = False) -> None:
    """Serves an application on a socket until SIGINT or SIGTERM.

    Requests that are running then are cancelled, and each is told so.
    """
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        log_level="info" if log_requests else "warning",
        access_log=log_requests,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        ws="none",
    )
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    _Server(config).run(sockets=[listening])


def _without_query(record: logging.LogRecord) -> bool:
    """Leaves what follows the path out of uvicorn's line: a token, or what is typed into completion."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


def _warm(models: ServedModels) -> None:
    """Sorts the vocabulary meanwhile, which takes seconds, so that nobody waits for it at the first completion."""
    threading.Thread(target=models.vocabulary, args=(None,), daemon=True).start()


class _Server(uvicorn.Server):
    """uvicorn, but for what signals do: the queue is stopped at once, and the process ends as if it had finished."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.service.queue.stop(seconds=0)
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that an address in use is known before a model is loaded.

    Raises:
        LensScopesError: when the address cannot be listened at.
    """
    if not host:
        raise LensScopesError("--host is empty, which would be every address; give 127.0.0.1, or 0.0.0.0 for all.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError, TypeError, ValueError) as error:  # the last two of a name that is none
        listening.close()
        raise _cannot_listen(host, port, error) from error
    return listening


def _cannot_listen(host: str, port: int, error: Exception) -> LensScopesError:
    reason = getattr(error, "strerror", None) or error
    return LensScopesError(f"cannot listen at {host}:{port}: {reason}; give another --host or --port.")
