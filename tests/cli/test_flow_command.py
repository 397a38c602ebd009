"""`lens-scopes flow`: what it computes, its files, its threshold for pipelines, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import PROMPT, Loader, Run, as_json

import lens_scopes as ls

SPAN = ["--span", "who=The dog", "--span", "where= on the"]
SPANS = {"who": "The dog", "where": " on the"}


def test_flow_is_the_python_call(run: Callable[..., Run], loader: Loader) -> None:
    options = ["--generate", "2", "--sigma", "0.3", "--rank", "3", "--samples", "4", "--seed", "7", "--through", "0"]
    got = as_json(run("flow", PROMPT, *SPAN, *options, "--json"))
    expected = ls.information_flow(
        loader.model, PROMPT, SPANS, generate=2, sigma=0.3, rank=3, samples=4, seed=7, through=ls.Layers(0)
    )
    assert got == json.loads(json.dumps(expected.to_dict()))
    assert [item["name"] for item in got["totals"]] == ["who", "where"] and got["answer"] == 2


def test_spans_are_named_by_text_characters_or_tokens(run: Callable[..., Run]) -> None:
    got = as_json(
        run(
            "flow",
            PROMPT,
            "--span",
            "a=The",
            "--characters",
            "b=3:7",
            "--tokens",
            "c=3:5",
            "--answer",
            " sofa",
            "--json",
        )
    )
    assert got["spans"] == {"a": [1, 2], "b": [2, 3], "c": [3, 5]}
    assert got["targets"][0]["token"] == " sofa" and not got["generated"]


def test_more_than_the_threshold_is_exit_status_1_with_the_result_written(
    run: Callable[..., Run],
    folder: Path,
    loader: Loader,
) -> None:
    totals = {item.name: item for item in ls.information_flow(loader.model, PROMPT, SPANS, sigma=2).totals()}
    least, most = sorted(totals.values(), key=lambda item: item.bound)
    assert most.channel < most.bound  # so that one threshold tells the measures apart
    between = (least.bound + most.bound) / 2
    above = run(
        "flow", PROMPT, *SPAN, "--sigma", "2", "--fail-above", repr(between), "--json", "--out", "a.safetensors"
    )
    assert above.status == 1 and json.loads(above.out)["sigma"] == 2 and (folder / "a.safetensors").exists()
    [line] = [line for line in above.err.splitlines() if "above" in line]
    assert repr(most.name) in line and "(bound)" in line and repr(least.name) not in line
    fine = run("flow", PROMPT, *SPAN, "--sigma", "2", "--fail-above", repr(2 * most.bound))
    assert fine.status == 0 and "above" not in fine.err
    channel = run("flow", PROMPT, *SPAN, "--sigma", "2", "--fail-above", repr(most.bound), "--measure", "channel")
    assert channel.status == 0
    assert run("flow", PROMPT, *SPAN, "--fail-above", "0").status == 1


def test_every_kind_of_file_is_written_and_a_saved_flow_is_shown_again(
    run: Callable[..., Run],
    folder: Path,
) -> None:
    names = ["a.html", "a.json", "a.csv", "a.png", "a.svg", "a.pdf", "a.safetensors"]
    done = run("flow", PROMPT, *SPAN, "--generate", "2", *(text for name in names for text in ("--out", name)))
    assert done.status == 0, done.err
    assert {path.name for path in folder.iterdir()} == set(names)
    assert "who" in done.out and "channel" in done.out
    again = run("show", "a.safetensors", "--out", "b.csv")
    assert again.status == 0, again.err
    assert again.out == done.out and (folder / "b.csv").read_text() == (folder / "a.csv").read_text()
    assert run("show", "a.safetensors", "--group", "word").status == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no span was named"),
        (["--span", "who"], "NAME=TEXT"),
        (["--span", "who=The cat"], "not in the prompt"),
        (["--span", "who=The dog", "--tokens", "who=2:3"], "two spans are named 'who'"),
        (["--span", "who=The dog", "--tokens", "b=2:4"], "overlap"),
        (["--tokens", "who=2"], "NAME=START:STOP"),
        (["--characters", "who=a:b"], "NAME=START:STOP"),
        (["--characters", "who=1:6"], "cuts token"),
        ([*SPAN, "--sigma", "0"], "positive"),
        ([*SPAN, "--measure", "nats"], "bound, channel or fisher"),
        ([*SPAN, "--fail-above", "-1"], "at least 0"),
        ([*SPAN, "--fail-above", "nan"], "at least 0"),
        ([*SPAN, "--answer", " on", "--generate", "2"], "ask for one"),
        ([*SPAN, "--out", "a.txt"], "suffixes"),
        ([*SPAN, "--recall", "0.8"], "--recall belongs to --calibrate"),
        ([*SPAN, "--calibrate", "cases.jsonl"], "leave out TEXT and --span"),
    ],
)
def test_wrong_input_is_one_line_and_exit_status_2(
    run: Callable[..., Run],
    arguments: list[str],
    words: str,
) -> None:
    done = run("flow", PROMPT, *arguments)
    assert done.status == 2 and done.out == ""
    assert len(done.err.splitlines()) == 1 and words in done.err


# Calibration


@pytest.fixture
def labelled(folder: Path) -> Path:
    """Four cases with spans of different texts, and a blank line among them."""
    path = folder / "labelled.jsonl"
    spans = (("The", True), ("dog", True), ("sleeps", False), ("on", False))
    lines = [json.dumps({"prompt": PROMPT, "span": span, "leaks": leaks}) for span, leaks in spans]
    path.write_text("\n".join([*lines[:2], "", *lines[2:]]))
    return path


def test_calibration_is_the_python_call(run: Callable[..., Run], loader: Loader, labelled: Path) -> None:
    options = ["--sigma", "0.3", "--rank", "2", "--samples", "2", "--seed", "3", "--generate", "1", "--recall", "0.5"]
    files = ["a.json", "a.csv", "a.png", "a.svg", "a.html"]
    got = as_json(
        run(
            "flow", "--calibrate", labelled.name, *options, "--json", *(text for name in files for text in ("-o", name))
        )
    )
    expected = ls.calibrate_flow(
        loader.model, labelled.name, sigma=0.3, rank=2, samples=2, seed=3, generate=1, recall=0.5
    )
    assert got == json.loads(json.dumps(expected.to_dict()))
    assert [case["place"] for case in got["cases"]][2] == "labelled.jsonl line 4"
    assert json.loads((labelled.parent / "a.json").read_text()) == got
    assert {path.name for path in labelled.parent.iterdir()} == {*files, labelled.name}
    shown = run("flow", "--calibrate", labelled.name, *options)
    assert shown.status == 0 and all(item.name in shown.out for item in expected.measures)
    assert f"{expected['bound'].recall.share:.2f} [" in shown.out and repr(expected["bound"].threshold) in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fail-above", "1", "--position", "2"], "leave out --position and --fail-above"),
        (["--contract"], "leave out --contract"),
        (["--recall", "2"], "recall is the share"),
        (["--out", "a.safetensors"], "suffixes"),
        (["--sigma", "0"], "positive"),
    ],
)
def test_what_calibration_refuses_is_told_before_the_model_is_loaded(
    run: Callable[..., Run], loader: Loader, labelled: Path, arguments: list[str], words: str
) -> None:
    done = run("flow", "--calibrate", labelled.name, *arguments)
    assert done.status == 2 and done.out == "" and not loader.calls
    assert len(done.err.splitlines()) == 1 and words in done.err


def test_a_bad_line_is_told_before_the_model_is_loaded(run: Callable[..., Run], loader: Loader, labelled: Path) -> None:
    labelled.write_text(labelled.read_text() + '\n{"prompt": "The dog", "span": "dog", "leaks": 1}')
    done = run("flow", "--calibrate", labelled.name)
    assert done.status == 2 and not loader.calls
    assert "labelled.jsonl line 6 has 1 as leaks; expected true or false" in done.err
