"""Fixtures shared by all tests: the embedded Gemma, the tiny models, and a machine without a network."""

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
os.environ.setdefault("MPLBACKEND", "agg")

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hooked_only import reason_to_skip
from tiny_models import TINY_MODELS

from lens_scopes.engine.model import has_hooked

pytest_plugins = ["chromium", "command_line", "docstring_examples"]

GEMMA_FIXTURES = {"gemma", "gemma_folder"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that needs the real weights, and without HookedTransformer those that need it."""
    for item in items:
        if GEMMA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.gemma)
        if not has_hooked() and (reason := reason_to_skip(item.nodeid)):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the counts of the attacks."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "attacks":
                terminalreporter.write_line(value)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and idle ones would take the cores from the other test process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse connections that leave the machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests run without a network, and one asked for {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(autouse=True)
def unmeasured_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are compared hold no measured peak, which is never the same twice; tests of the peak measure it."""
    if "peak" not in request.node.name:
        monkeypatch.setattr("lens_scopes.engine.memory.system._start_high_water", lambda: None)


@pytest.fixture(scope="session", autouse=True)
def either_line() -> Iterator[None]:
    """With transformer-lens 4, a test that asks for a HookedTransformer is skipped."""
    with pytest.MonkeyPatch.context() as patch:
        if not has_hooked():
            reason = "transformer-lens 4 has no HookedTransformer"
            patch.setattr("lens_scopes.models.load.require_hooked", lambda: pytest.skip(reason))
        yield


@pytest.fixture(scope="session")
def gemma() -> Any:
    """The embedded Gemma 3 270M with the default backend, loaded once."""
    import lens_scopes

    torch.set_num_threads(os.cpu_count() or 1)  # here threads pay, and these tests run in a process of their own
    return lens_scopes.load_model("gemma-3-270m")


@pytest.fixture(scope="session")
def gemma_folder() -> Path:
    """The embedded weights as a Hugging Face folder."""
    from lens_scopes.models import gemma as embedded

    return embedded.embedded_folder()


@pytest.fixture(scope="session", params=TINY_MODELS)
def tiny(request: pytest.FixtureRequest) -> Any:
    """Each tiny random model in turn; tests must leave it as they found it."""
    return TINY_MODELS[request.param]()
