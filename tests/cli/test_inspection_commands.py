"""The commands that inspect heads, matrices and modes, and pages that hold several results."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import PROMPT, Loader, Run, as_json
from number_models import SERIES, with_numbers
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel


def plain(result: dict) -> dict:
    return json.loads(json.dumps(result))


def test_heads_is_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(
        run("heads", PROMPT, "--scope", "logprob", "--baseline", "zero", "--through", "0", "--verify", "3", "--json")
    )
    expected = ls.inspect_heads(loader.model, PROMPT, ls.LogProb(), baseline="zero", through=ls.Layers(0), verify=3)
    assert got == plain(expected.to_dict())
    assert len(got["ablations"]) == 3 and got["baseline"] == "zero"


@pytest.mark.parametrize(
    ("words", "objective", "answer"),
    [
        (["--scope", "logprob", "--answer", " sofa dog"], ls.LogProb(), " sofa dog"),
        (["--scope", "fisher", "--generate", "2"], ls.Fisher(), 2),
        (["--scope", "logprob-diff", "--answer", "#8#7", "--other", " sofa"], ls.LogProbDiff((8, 7), " sofa"), None),
    ],
)
def test_heads_of_a_whole_answer(
    run: Callable[..., Run], loader: Loader, words: list[str], objective: ls.Objective, answer: str | int | None
) -> None:
    expected = plain(ls.inspect_heads(loader.model, PROMPT, objective, answer=answer, verify=3).to_dict())
    assert as_json(run("heads", PROMPT, *words, "--verify", "3", "--json")) == expected
    both = as_json(run("attribute", PROMPT, *words, "--with", "heads", "--json"))["heads"]
    assert (both["effect"], both["answer"]) == (expected["effect"], expected["answer"])
    shown = run("heads", PROMPT, *words, "--verify", "3").out
    assert "The answer" in shown and "log P(answer | prompt)" in shown


def test_modes_do_not_go_with_a_whole_answer(run: Callable[..., Run]) -> None:
    done = run("attribute", PROMPT, "--answer", " sofa", "--with", "modes")
    assert done.status == 2 and "modes are those of one prediction" in done.err


def test_matrix_is_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(run("matrix", PROMPT, "--scope", "fisher", "--generate", "2", "--span", "start=The", "--json"))
    expected = ls.attribute_all(loader.model, PROMPT, ls.Fisher(), generate=2, spans={"start": "The"})
    assert got == plain(expected.to_dict())
    assert got["generated"] == 2 and "start" in got["spans"]


def test_total_influence_is_the_python_call(run: Callable[..., Run], loader: Loader, folder: Path) -> None:
    asked = ("matrix", PROMPT, "--generate", "4", "--total-influence", "generated")
    got = as_json(run(*asked, "--json"))
    matrix = ls.attribute_all(loader.model, PROMPT, generate=4)
    assert got == plain(matrix.total_influence("generated").to_dict())
    assert got["of"] == "generated" and got["chains"] and got["hops"]
    names = ["a.html", "a.safetensors", "a.json", "a.csv", "a.png"]
    done = run(*asked, *(argument for name in names for argument in ("--out", name)))
    assert done.status == 0 and "the strongest ways to the prompt" in done.out
    assert isinstance(ls.load(folder / "a.safetensors"), ls.TotalInfluence)
    for words in (("--total-influence", "answer"), ("--generate", "3", "--total-influence", "nowhere")):
        refused = run("matrix", PROMPT, *words)
        assert refused.status == 2 and len(refused.err.strip().splitlines()) == 1


def test_a_matrix_of_a_given_answer(run: Callable[..., Run], loader: Loader) -> None:
    expected = plain(ls.attribute_all(loader.model, PROMPT, ls.LogProb(), answer=" sofa dog").to_dict())
    got = as_json(run("matrix", PROMPT, "--scope", "logprob", "--answer", " sofa dog", "--json"))
    assert got == expected and (got["answer"], got["generated"]) == (2, 0)
    both = as_json(
        run("attribute", PROMPT, "--scope", "logprob", "--answer", " sofa dog", "--with", "matrix", "--json")
    )
    assert both["matrix"]["matrix"] == expected["matrix"]


def test_modes_is_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(run("modes", PROMPT, "--rank", "2", "--baseline", "zero", "--json"))
    assert got == plain(ls.inspect_modes(loader.model, PROMPT, 2, baseline="zero").to_dict())


def test_heads_are_patched_from_another_prompt(run: Callable[..., Run], loader: Loader) -> None:
    other = "The sofa sleeps on the"
    expected = ls.inspect_heads(loader.model, PROMPT, baseline=other)
    ids = "".join(f"#{token}" for token in ls.read_prompt(loader.model, other).token_ids)
    for words in (["heads", PROMPT, "--against", other], ["heads", PROMPT, "--against", ids]):
        got = as_json(run(*words, "--json"))
        assert got["effect"] == [pytest.approx(row) for row in expected.effect.tolist()]
        assert got["baseline"] == "prompt" and got["baseline_tokens"] == expected.baseline_tokens
    both = as_json(run("attribute", PROMPT, "--readout", f'dot-"{other}"', "--with", "heads", "--json"))
    assert both["heads"]["effect"] == got["effect"]


def asked(command: str, loader: Loader) -> list[str]:
    """A usual command line; a series is read by a model of its own."""
    if command == "series":
        loader.model = with_numbers(llama_like())
    return [command, SERIES if command == "series" else PROMPT]


@pytest.mark.parametrize("command", ["heads", "matrix", "modes", "series"])
def test_every_kind_of_file_is_written_and_the_terminal_view_printed(
    run: Callable[..., Run],
    loader: Loader,
    folder: Path,
    command: str,
) -> None:
    names = ["a.html", "a.safetensors", "a.json", "a.csv", "a.png", "a.svg", "a.pdf"]
    done = run(*asked(command, loader), *(argument for name in names for argument in ("--out", name)))
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) > 5
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert (folder / "a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "a.csv").read_text().splitlines()) > 1
    json.loads((folder / "a.json").read_text())


@pytest.mark.parametrize("command", ["heads", "matrix", "modes", "series"])
def test_a_saved_result_is_shown_again(run: Callable[..., Run], loader: Loader, folder: Path, command: str) -> None:
    done = run(*asked(command, loader), "--out", "a.safetensors")
    assert run("show", "a.safetensors").out == done.out
    again = run("show", "a.safetensors", "--json", "--out", "b.html", "--out", "b.safetensors")
    assert as_json(again) == plain(ls.load(folder / "b.safetensors").to_dict())
    refused = run("show", "a.safetensors", "--group", "word")
    assert refused.status == 2 and f"kind {command}" in refused.err


def test_companions_share_the_page_the_json_and_the_terminal(
    run: Callable[..., Run],
    folder: Path,
) -> None:
    kinds = [argument for kind in ("heads", "matrix", "modes") for argument in ("--with", kind)]
    page = run("attribute", PROMPT, "--layers", *kinds, "--out", "page.html")
    assert page.status == 0, page.err
    html = (folder / "page.html").read_text(encoding="utf-8")
    assert html.count("CircuitsVis=") <= 1 and html.count("<!DOCTYPE") == 1
    alone = run("attribute", PROMPT, "--layers")
    assert len(page.out) > len(alone.out)
    got = as_json(run("attribute", PROMPT, *kinds, "--json"))
    assert {"heads", "matrix", "modes"} <= got.keys()


def test_memory_runs_layers_in_slices(run: Callable[..., Run], loader: Loader) -> None:
    whole = as_json(run("attribute", PROMPT, "--json"))
    from lens_scopes.engine.memory import Budget

    needed = Budget(ScopedModel.of(loader.model), 10**15).plan(len(whole["tokens"]), 1).estimate
    assert "in memory was" not in run("attribute", PROMPT, "--json").err
    for scope in ("leave-one-out", "attention-rollout", "random"):  # which have no graph
        for limit in ([], ["--memory", "1GB"]):
            assert "in memory was" not in run("attribute", PROMPT, "--scope", scope, *limit, "--json").err
    ran = run("attribute", PROMPT, "--memory", str(needed - 1), "--json")
    assert "note: in memory was the graph of 1 of 2 layers at a time" in ran.err
    sliced = as_json(ran)
    assert (sliced["memory"]["layers_at_once"], sliced["memory"]["n_layers"]) == (1, 2)
    assert sliced["memory"]["budget"] == needed - 1 and whole["memory"]["budget"] is None
    assert sliced["scores"] == pytest.approx(whole["scores"], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["heads", PROMPT, "--baseline", "none"], "unknown ablation 'none'"),
        (["heads", PROMPT, "--baseline", "zero", "--against", "The sofa sleeps on the"], "give one of them"),
        (["heads", PROMPT, "--against", "The sofa sleeps"], "they part at position"),
        (["heads", PROMPT, "--head", "third"], "'third' is not a head"),
        (["heads", PROMPT, "--head", "L9H0"], "L9H0 does not exist"),
        (["heads", PROMPT, "--out", "a.pickle"], "suffixes .html"),
        (["matrix", PROMPT, "--span", "start"], "NAME=TEXT"),
        (["matrix", PROMPT, "--span", "start=absent"], "absent"),
        (["matrix", PROMPT, "--generate", "99"], "context window"),
        (["modes", PROMPT, "--rank", "0"], "rank"),
        (["modes", PROMPT, "--baseline", "pad"], "'pad'"),
        (["attribute", PROMPT, "--with", "everything"], "--with takes heads"),
        (["attribute", PROMPT, "--through", "5-2"], "reversed"),
        (["attribute", PROMPT, "--through", "7"], "layers 0 to 1"),
        (["attribute", PROMPT, "--freeze", "pattern"], "'patterns'"),
        (["attribute", PROMPT, "--memory", "much"], "4GB"),
        (["attribute", PROMPT, "--memory", "9"], "9 bytes are allowed"),
        (["heads", PROMPT, "--memory", "9"], "the heads of"),
        (["matrix", PROMPT, "--memory", "9"], "9 bytes are allowed"),
        (["modes", PROMPT, "--memory", "none"], "4GB"),
        (["series", "12,34"], "ends with '12,34'"),
        (["series", "12,x,"], "item 1 of the series is 'x', which is no number"),
    ],
)
def test_bad_input_is_one_line_with_nothing_written(
    run: Callable[..., Run],
    folder: Path,
    arguments: list[str],
    words: str,
) -> None:
    failed = run(*arguments)
    assert failed.status == 2 and words in failed.err
    assert len(failed.err.splitlines()) == 1 and failed.err.startswith("lens-scopes: ")
    assert not failed.out and not list(folder.iterdir())


def test_serve_says_how_to_get_what_it_needs(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lens_scopes.server.launch", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.status == 2 and "pip install 'lens-scopes[serve]'" in result.err and result.err.count("\n") == 1


OTHER = "The sofa sleeps on the"


def test_cells_is_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(run("cells", PROMPT, "--against", OTHER, "--scope", "logprob", "--verify", "3", "--json"))
    att = ls.attribute(loader.model, PROMPT, ls.LogProb(), layers=True, readout=ls.Dot(OTHER))
    assert got == plain(ls.patch_cells(loader.model, att, 3).to_dict())
    assert len(got["cells"]) == 3 and got["baseline_tokens"][2] == " sofa"
    along = as_json(
        run("cells", PROMPT, "--against", OTHER, "--points", "path@4", "--layer-site", "resid_mid", "--json")
    )
    path = ls.StraightPath(OTHER, 4)
    att = ls.attribute(loader.model, PROMPT, layers="resid_mid", readout="dot", points=path)
    assert along == plain(ls.patch_cells(loader.model, att).to_dict())


def test_cells_of_a_whole_answer_are_those_of_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    words = ["cells", PROMPT, "--against", OTHER, "--scope", "logprob", "--verify", "3"]
    got = as_json(run(*words, "--answer", " sofa dog", "--json"))
    dot = ls.Dot(OTHER)
    att = ls.attribute(loader.model, PROMPT, ls.LogProb(), answer=" sofa dog", layers=True, readout=dot)
    assert got == plain(ls.patch_cells(loader.model, att, 3).to_dict()) and got["answer"]["tokens"] == [" sofa", " dog"]
    printed = run(*words, "--generate", "2").out
    assert "The answer '" in printed and "generated by the model" in printed and "Patched: the 3" in printed
    beside = as_json(run("attribute", *words[1:4], "--layers", "--answer", " sofa", "--with", "cells", "--json"))
    assert beside["cells"]["answer"] == beside["answer"]


def test_cells_beside_an_attribution_and_in_every_file(run: Callable[..., Run], folder: Path) -> None:
    both = as_json(run("attribute", PROMPT, "--layers", "--against", OTHER, "--with", "cells", "--json"))
    alone = as_json(run("cells", PROMPT, "--against", OTHER, "--json"))
    assert both["cells"] == alone and both["spec"]["readout"] == f'dot-"{OTHER}"'
    names = ["a.html", "a.safetensors", "a.json", "a.csv", "a.png"]
    done = run("cells", PROMPT, "--against", OTHER, *(word for name in names for word in ("--out", name)))
    assert done.status == 0 and "Patched: the" in done.out and all((folder / name).stat().st_size for name in names)
    assert run("show", "a.safetensors").out == done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cells", PROMPT], "give it with --against"),
        (["cells", PROMPT, "--against", "The sofa. sleeps on the"], "they part at position 2: ' dog' (1 token)"),
        (["cells", PROMPT, "--against", OTHER, "--scope", "random"], "random replaces no tokens"),
        (["cells", PROMPT, "--against", OTHER, "--points", "path-mean@4"], "the path starts at 'mean' already"),
        (["cells", PROMPT, "--against", OTHER, "--points", "noise"], ""),
        (["attribute", PROMPT, "--with", "cells"], "on the command line with --layers --against"),
        (["attribute", PROMPT, "--against", OTHER, "--readout", "norm"], "norm has no baseline"),
        (["attribute", PROMPT, "--scope", "leave-one-out", "--ablation", "promt"], "did you mean 'prompt'"),
    ],
)
def test_cells_without_a_prompt_that_fits_are_one_line(run: Callable[..., Run], words: list[str], said: str) -> None:
    result = run(*words)
    assert result.status == (2 if said else 0)
    assert said in result.err and (not said or len(result.err.strip().splitlines()) == 1)
