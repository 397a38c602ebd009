"""Every name in the registry builds its scope, and every face of the suite takes its names from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reference
import torch
from command_line import PROMPT, Run
from served import client, served_model
from tiny_models import llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.methods.table import method_names
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes import registry
from lens_scopes.scopes.registry import (
    ScopeEntry,
    scope_entries,
    scope_entry,
    scope_names,
)

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
SETTINGS = {
    "target": " sofa",
    "answer": " sofa in the",
    "other": " the",
    "rank": "2",
    "samples": "2",
    "seed": "1",
    "measure": "kl",
    "ablation": "mean",
}


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ObjectiveError) as error:
        call()
    return str(error.value)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_own_entries", {})
    yield


def test_every_objective_has_a_name() -> None:
    names = [
        "semantic",
        "logprob",
        "logit-diff",
        "logprob-diff",
        "temperature",
        "entropy",
        "fisher",
        "fisher-at-values",
    ]
    assert scope_names(takes_gradient=True) == names
    for name in names:
        settings = {"logit-diff": {"target": 1, "other": 2}, "logprob-diff": {"answer": 1, "other": 2}}.get(name, {})
        built = scope_entry(name).build(**settings)
        assert built == ls.FisherAtValues() if name == "fisher-at-values" else getattr(built, "scope", None) == name
    assert scope_entry("fisher").build(rank=3) == ls.Fisher(rank=3)


def test_unknown_names_and_settings_are_refused_with_near_ones() -> None:
    for wrong, near in (("semantics", "semantic"), ("Fischer", "fisher"), ("TEMPERATUR", "temperature")):
        message = refusal(lambda wrong=wrong: scope_entry(wrong))
        assert repr(wrong) in message and f"did you mean {near!r}" in message
    message = refusal(lambda: scope_entry("zzz"))
    assert "did you mean" not in message and "semantic, logprob" in message
    assert "rank" in refusal(lambda: scope_entry("semantic").build(rank=2))
    assert "logit-diff" in refusal(lambda: scope_entry("logit-diff").build())
    assert "rank" in refusal(lambda: scope_entry("fisher").build(rank=0))


def test_a_users_objective_is_known_by_name_once_registered(own_registry: None) -> None:
    model = llama_like()
    ls.register_objective("first-axis", lambda y, logits: torch.eye(len(y))[0])
    assert "first-axis" in scope_names()
    att = ls.attribute(model, IDS, "first-axis")
    expected = reference.jacobian(model, IDS)[:, 0].norm(dim=-1)
    assert_close(att.scores, expected, rtol=1e-9, atol=1e-12)
    assert att.scope == "first-axis" or att.objective == "first-axis"
    assert att.objective == "first-axis" and att.settings["objective"]["name"] == "first-axis"
    for taken in ("first-axis", "semantic"):
        assert repr(taken) in refusal(lambda taken=taken: ls.register_objective(taken, lambda y, logits: y))
    assert "'first-axis'" in refusal(lambda: scope_entry("first-axes"))


def test_what_may_be_passed_for_an_objective() -> None:
    def my_scope(y: Tensor, logits: Tensor) -> Tensor:
        return y

    read = ls.Spec.read
    assert read(None) == read("semantic") == read(ls.Semantic) == read(ls.Semantic()) == ls.Spec(ls.Semantic())
    assert read(ls.Fisher(rank=2)).objective == ls.Fisher(rank=2)
    assert read(ls.FisherAtValues) == read("fisher-at-values") == ls.FisherAtValues()
    assert read(my_scope).objective == ls.Custom(my_scope, "my_scope")
    assert isinstance(read(SimpleCallable()).objective, ls.Custom)
    for wrong in (3, 1.5, ["semantic"], object()):
        message = refusal(lambda wrong=wrong: read(wrong))  # pyright: ignore[reportArgumentType]
        assert type(wrong).__name__ in message
    assert "LogitDiff" in refusal(lambda: read(ls.LogitDiff))


class SimpleCallable:
    def __call__(self, y: Tensor, logits: Tensor) -> Tensor:
        return y


# Drift: each face knows each entry


@pytest.fixture
def preset(own_registry: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset that a user adds in one place."""
    entry = ScopeEntry("two-fishers", lambda **settings: ls.Fisher(2, **settings), "two terms", {"seed": "seed"})
    monkeypatch.setitem(registry._own_entries, entry.name, entry)
    return entry.name


def test_one_entry_is_enough_for_a_preset(preset: str, run: Callable[..., Run]) -> None:
    by_name = ls.attribute(llama_like(), IDS, preset)
    assert torch.equal(by_name.scores, ls.attribute(llama_like(), IDS, ls.Fisher(2)).scores)
    from lens_scopes.server import create_app

    with client(create_app({"tiny": served_model()})) as http:
        assert preset in [scope["name"] for scope in http.get("/api/about").json()["scopes"]]
        answer = http.post("/api/attribute", json={"text": PROMPT, "scope": preset})
        assert answer.status_code == 200, answer.text
    assert run("attribute", PROMPT, "--scope", preset, "--json").status == 0
    assert as_method(preset).explanation == ls.Fisher(2)
    assert as_method(f"{preset}@3").explanation == ls.Fisher(2, seed=3)
    rows = ls.evaluate(llama_like(), [IDS, IDS[:5]], methods=[preset, f"{preset}+dot"], metrics=["first-token"])
    assert set(rows["method"]) == {preset, f"{preset}+dot"}


@pytest.mark.parametrize("name", scope_names())
def test_every_entry_runs_from_the_command_line(name: str, run: Callable[..., Run]) -> None:
    required = [word for setting in scope_entries()[name].required for word in (f"--{setting}", SETTINGS[setting])]
    two_sentences = f"{PROMPT} sofa. The dog"
    result = run("attribute", two_sentences, "--scope", name, *required, "--json")
    assert result.status == 0, result.err


@pytest.mark.parametrize("name", scope_names())
def test_every_setting_of_an_entry_is_an_option(name: str, run: Callable[..., Run]) -> None:
    help_text = run("attribute", "--help").out
    assert name in help_text.replace("\n", " ") or name in "".join(help_text.split())
    for setting in scope_entries()[name].settings:
        assert f"--{setting}" in help_text


@pytest.mark.parametrize("name", [name for name in scope_names() if not scope_entries()[name].required])
def test_every_entry_is_a_method_of_the_evaluation(name: str) -> None:
    assert as_method(name).spec == ls.Spec.parse(name)


def test_a_registered_objective_is_a_method(own_registry: None) -> None:
    ls.register_objective("first-axis", lambda y, logits: torch.eye(len(y))[0])
    model = llama_like()
    scores = as_method("first-axis").score(model, read_prompt(model, IDS), 5).scores
    assert torch.equal(scores, ls.attribute(model, IDS, "first-axis").scores)
    with pytest.raises(EvaluationError, match="did you mean 'first-axis'"):
        as_method("first-axes")


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_named_in_the_help_of_evaluate(name: str, run: Callable[..., Run]) -> None:
    assert name in "".join(run("evaluate", "--help").out.replace("│", "").split())


@pytest.mark.parametrize("name", scope_names(takes_gradient=True))
def test_the_api_describes_every_scope(name: str) -> None:
    from lens_scopes.server import create_app

    with client(create_app({"tiny": served_model()})) as http:
        assert name in http.get("/openapi.json").text


def test_an_installed_package_adds_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ScopeEntry("outside", lambda: ls.Temperature(), "from another package")

    class Point:
        def load(self) -> ScopeEntry:
            return entry

    monkeypatch.setattr(
        registry.metadata, "entry_points", lambda group: [Point()] if group == registry.ENTRY_POINTS else []
    )
    registry._plugin_entries.cache_clear()
    try:
        assert scope_entry("outside").build() == ls.Temperature()
        assert as_method("outside").explanation == ls.Temperature()
    finally:
        monkeypatch.undo()
        registry._plugin_entries.cache_clear()
