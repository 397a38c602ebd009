"""A Spec says the same as arguments, options, one line, Python and a command line, and refuses what clashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from command_line import PROMPT, Run, as_json
from served import client, served_model
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.errors import LensScopesError, ObjectiveError, PathError, ReadoutError, SiteError
from lens_scopes.scopes.paths import Path, parse_path
from lens_scopes.scopes.registry import (
    POINTS,
    READOUTS,
    SCORE_SITES,
    scope_entries,
    scope_names,
)
from lens_scopes.scopes.spec import Spec
from lens_scopes.scopes.text.options import options

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
SETTINGS = {
    "target": "#5",
    "answer": "#5#6",
    "other": "#7",
    "rank": "2",
    "measure": "logit",
    "ablation": "mean",
    "draws": 2,
    "seed": 3,
}
LINES = [
    "semantic",
    "semantic@#12",
    'semantic@" a+b, \\"c\\""',
    "logit-diff@#1+other=#2",
    "fisher@8+dot-mean",
    "fisher@trace+samples=8+exact=2+seed=3",
    "fisher@trace+samples=0+exact=0",
    "fisher@4+values+frozen-patterns",
    "temperature+product+path-bos-held@8",
    "semantic+dot+path-#5@4",
    'semantic+dot+path-" the"@4',
    "semantic+path-#5#6#7@2",
    'semantic+dot-"The cat, \\"a+b\\" – and\\n@c"+layers=true',
    "fisher@2+product-#5#6#7+noise@2",
    "semantic+dot-#7",
    'semantic+dot-"The cat"+path-"The cat"@4',
    "logprob+answer=#5#6#7+eligible=all",
    "logprob+generate=4",
    'fisher@2+answer=" a+b"+samples=4',
    "logprob-diff@#5#6+other=#7#8#9+dot",
    "entropy+noise@4,scale=0.25,seed=2",
    "fisher+layers=true+site=hook_z+site=hook_mlp_out",
    "fisher+layer_site=resid_mid",
    "fisher+through=0-3,L5H2+frozen-norms",
    "fisher+through=attention & 0,2-3+matmul_dtype=bfloat16+memory=4GB",
    "leave-one-out@logit+ablation=mean",
    "random@4",
]


@pytest.mark.parametrize("line", LINES)
def test_every_form_of_a_spec_reads_back_as_itself(line: str) -> None:
    spec = Spec.parse(line)
    assert Spec.parse(spec.line) == spec
    assert Spec.from_options(**json.loads(json.dumps(spec.to_options()))) == spec
    assert hash(Spec.parse(spec.line)) == hash(spec)
    arguments = f"Spec.read({', '.join(spec.to_python())})"
    assert eval(arguments, {"Spec": Spec, "ls": ls}) == spec, arguments  # noqa: S307


@pytest.mark.parametrize(
    "line",
    [
        "fisher@trace+samples=0",
        "fisher@2+values",
        "temperature+through=0+frozen-norms+layers=true",
        "entropy+dot+path-mean@2+site=hook_z+matmul_dtype=bfloat16",
        'semantic+dot-"The sofa sleeps on the"+layers=true',
        "leave-one-out@logprob+ablation=mean",
    ],
)
def test_the_command_line_that_a_spec_writes_asks_for_it(line: str, run: Callable[..., Run]) -> None:
    spec = Spec.parse(line)
    assert as_json(run("attribute", PROMPT, *spec.to_cli(), "--json"))["spec"] == spec.to_options()


def test_a_line_is_the_arguments_of_attribute() -> None:
    spec = Spec.parse("fisher@8+dot-mean+path-mean@4+frozen-norms+through=1+layers=true")
    assert spec == Spec.read(
        ls.Fisher(8),
        layers=True,
        readout="dot",
        points=ls.StraightPath("mean", 4),
        through=ls.Layers(1) & ls.Frozen("norms"),
    )
    model = llama_like()
    by_line = ls.attribute(model, IDS, "fisher@2+relative+through=1")
    by_arguments = ls.attribute(model, IDS, ls.Fisher(2), readout=ls.Relative(), through=ls.Layers(1))
    assert by_line.scores.equal(by_arguments.scores) and by_line.spec == by_arguments.spec


def test_arguments_stand_above_those_of_a_spec() -> None:
    preset = ls.FisherAtValues(2)
    assert Spec.read(preset, readout="norm") == Spec.read(ls.Fisher(2), score_site="hook_v", readout="norm")
    assert Spec.read(preset) == preset == Spec.parse("fisher@2+values")
    assert preset.without_sites() == Spec(ls.Fisher(2))


def test_a_result_tells_how_to_ask_for_it_again(tmp_path: Any) -> None:
    model = llama_like()
    first = ls.attribute(model, IDS, "fisher@2+values+frozen-patterns", position=5)
    first.save(tmp_path / "a.safetensors")
    record = ls.Attribution.load(tmp_path / "a.safetensors").spec
    again = ls.attribute(model, IDS, Spec.from_options(**record), position=5)
    assert again.scores.equal(first.scores) and again.contract == first.contract
    own = ls.attribute(model, IDS, lambda y, logits: y)
    assert own.spec == {"scope": "custom", "name": "<lambda>"}


@pytest.mark.parametrize(
    ("line", "error", "word"),
    [
        ("fishr", ObjectiveError, "did you mean 'fisher'"),
        ("fisher@x", ObjectiveError, "trace"),
        ("fisher@", ObjectiveError, "nothing after @"),
        ("entropy@3", ObjectiveError, "no setting after @"),
        ("fisher@2+rank=3", ObjectiveError, "twice"),
        ("fisher@2+samples=4", ObjectiveError, "trace"),
        ("fisher@trace+samples=few", ObjectiveError, "integer"),
        ("fisher+layers=maybe", ObjectiveError, "true or false"),
        ("semantic+rank=3", ObjectiveError, "belongs to fisher"),
        ("fisher+dott", ObjectiveError, "unknown choice 'dott'"),
        ("fisher+dot-median", ReadoutError, "dot-mean"),
        ("fisher+path-median", ReadoutError, "path-START"),
        ('fisher+dot-"median"', ReadoutError, "another prompt"),
        ('fisher+dot-"a \\q"', ReadoutError, "JSON"),
        ('fisher+dot-"The cat"+path-"The dog"', ReadoutError, "read from its start"),
        ("fisher+through=everything", PathError, "not a path"),
        ("fisher+frozen-values", ObjectiveError, "frozen-patterns"),
        ("random+dot", ObjectiveError, "no gradient"),
        ("leave-one-out+layers=true", ObjectiveError, "no gradient"),
        ("fisher+values+dot", SiteError, "signed"),
        ("semantic+layer_site=resid_end", SiteError, "resid_mid"),
        ("fisher+matmul_dtype=float8", LensScopesError, "bfloat16"),
        ("+", ObjectiveError, "not a scope"),
        ("", ObjectiveError, "not a scope"),
        ('fisher+"', ObjectiveError, "not a scope"),
    ],
)
def test_what_clashes_is_refused_without_a_model(line: str, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=".*") as raised:
        Spec.parse(line)
    assert word in str(raised.value)


def test_options_are_refused_by_name() -> None:
    for given, word in (
        ({"scop": "fisher"}, "'scop'"),
        ({"scope": "fisher@2", "rank": "3"}, "rank is given twice"),
        ({"scope": "temperature", "target": " a"}, "temperature"),
    ):
        with pytest.raises(ObjectiveError) as raised:
            Spec.from_options(**given)
        assert word in str(raised.value)
    with pytest.raises(ObjectiveError, match="register_objective"):
        Spec.read(lambda y, logits: y).to_options()


@pytest.mark.parametrize(
    "path",
    [
        ls.Layers(5),
        ls.Layers([0, 2, 3, 7]),
        ls.Heads("L3H2", "L5H0"),
        ls.Attention() & ls.Layers([0, 2]),
        ls.Heads("L1H0") | ls.MLP(),
        ls.Skip(),
        ls.Skip() & ls.Frozen("norms"),
        ls.Frozen("patterns", "gates"),
        (ls.Layers(1) | ls.Heads("L0H1")) & ls.Frozen("norms"),
    ],
    ids=str,
)
def test_a_path_reads_back_from_its_text(path: Path) -> None:
    model = llama_like()
    again = parse_path(path.text)
    assert again.rules == path.rules
    if all(layer < model.cfg.n_layers for term in path.terms or () for one in term for layer in one.layers or ()):
        kept = [term for term in path.terms or () if all(not one.heads for one in term)]
        assert len(kept) == len(path.terms or ()) or again == path or str(again)
    assert again.text == path.text


# Drift: every entry through every form and face


@pytest.mark.parametrize("name", scope_names())
def test_every_entry_says_all_that_faces_need(name: str) -> None:
    entry = scope_entries()[name]
    assert entry.explains and (not entry.takes_gradient or entry.quantity and entry.unit)
    assert set(entry.required) <= entry.settings.keys() <= options().keys()
    given = {option: SETTINGS[option] for option in entry.settings if option in SETTINGS and option != "seed"}
    spec = Spec.from_options(scope=name, **given)
    assert Spec.from_options(**spec.to_options()) == Spec.parse(spec.line) == spec
    assert spec.to_python() or spec.objective == ls.Semantic()


@pytest.mark.parametrize("text", [*READOUTS, *POINTS])
def test_every_readout_and_kind_of_points_is_known_everywhere(text: str, run: Callable[..., Run]) -> None:
    option = "readout" if text in READOUTS else "points"
    spec = Spec.parse(f"fisher+{text}")
    assert text in spec.line or text == "norm", "the usual readout goes without saying"
    assert text in "".join(run("attribute", "--help").out.split())
    assert run("attribute", PROMPT, "--scope", "semantic", f"--{option}", text, "--json").status == 0
    from lens_scopes.server import create_app

    with client(create_app({"tiny": served_model()})) as http:
        assert text in [
            item["name"] for item in http.get("/api/about").json()["readouts" if text in READOUTS else "points"]
        ]
        answer = http.post("/api/attribute", json={"text": PROMPT, option: text})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", SCORE_SITES)
def test_every_place_for_scores_is_known_everywhere_and_takes_any_scope(name: str, run: Callable[..., Run]) -> None:
    entry = SCORE_SITES[name]
    apart = Spec.read("temperature", score_site=entry.site, readout=entry.readout)
    assert Spec.read("temperature", score_site=name) == Spec.parse(f"temperature+{name}") == apart
    assert apart.line == f"temperature+{name}" and apart.to_options() == {"scope": "temperature", "score_site": name}
    assert apart.to_python() == ["ls.Temperature()", f"score_site={name!r}"]
    assert Spec.read(ls.Fisher(2), score_site=name, readout="norm") == Spec(ls.Fisher(2), score_site=entry.site)
    assert Spec.read("fisher+dot", score_site=name).readout == ls.Relative(), "the place brings its readout"
    assert name in "".join(run("attribute", "--help").out.split())
    shown = as_json(run("attribute", PROMPT, "--scope", "temperature", "--score-site", name, "--json"))
    assert shown["spec"] == apart.to_options()
    from lens_scopes.server import create_app

    with client(create_app({"tiny": served_model()})) as http:
        assert name in [item["name"] for item in http.get("/api/about").json()["score_sites"]]
        answer = http.post("/api/attribute", json={"text": PROMPT, "scope": "temperature", "score_site": name})
        assert answer.status_code == 200, answer.text
        assert answer.json()["scores"] == pytest.approx(shown["scores"], rel=1e-4)


def test_every_preset_is_its_scope_read_at_its_site() -> None:
    presets = [entry for entry in scope_entries().values() if entry.is_preset]
    assert [entry.name for entry in presets] == ["fisher-at-values"]
    for entry in presets:
        objective = Spec.parse(entry.name).objective
        assert entry.build() == Spec.read(objective, score_site=entry.score_site)
    assert scope_entries()["fisher-at-values"].build(rank=3) == ls.FisherAtValues(3)


@pytest.mark.parametrize("name", [name for name in options() if name != "memory"])
def test_every_option_is_on_the_command_line_and_in_the_api(name: str, run: Callable[..., Run]) -> None:
    assert f"--{name.replace('_', '-')}" in run("attribute", "--help").out
    from lens_scopes.server.api.schemas import AttributeRequest

    only_compared = {
        option for entry in scope_entries().values() if not entry.takes_gradient for option in entry.settings
    }
    taken = {option for entry in scope_entries().values() if entry.takes_gradient for option in entry.settings}
    assert (name in AttributeRequest.model_fields) == (name not in only_compared - taken)


def test_the_api_bounds_what_a_line_may_ask_for() -> None:
    from lens_scopes.server import create_app

    with client(create_app({"tiny": served_model()})) as http:
        for scope, status in (
            ("fisher@trace+samples=100000", 413),
            ("semantic+path@100000", 413),
            ("fisher+memory=1KB", 422),
            ("random", 422),
            ("fisher@2+dot-mean", 200),
        ):
            assert http.post("/api/attribute", json={"text": PROMPT, "scope": scope}).status_code == status, scope
