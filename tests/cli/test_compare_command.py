"""`lens-scopes compare` on a tiny model: two prompts, targets or scopes."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from command_line import PROMPT, Loader, Run, as_json
from fake_results import fake_attribution

import lens_scopes as ls

OTHER = "The sofa sleeps on the"


def test_two_targets_are_compared_in_their_unit(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(run("compare", PROMPT, "--target", " dog", "--target", " sofa", "--json"))
    dog, sofa = (ls.attribute(loader.model, PROMPT, ls.Semantic(token)) for token in (" dog", " sofa"))
    assert got["a"] == json.loads(json.dumps(dog.to_dict())) and got["b"] == json.loads(json.dumps(sofa.to_dict()))
    changes = (sofa - dog).scores.tolist()
    assert [line["change"] for line in got["tokens"]] == [
        None if special else pytest.approx(change) for special, change in zip(dog.special, changes, strict=True)
    ]
    assert got["change"] == "B − A in scores: the logit of the target token"


def test_two_scopes_are_compared_relative_to_the_strongest_token(run: Callable[..., Run]) -> None:
    done = run("compare", PROMPT, "-s", "semantic", "-s", "fisher")
    assert "Semantic(" in done.out and "Fisher(" in done.out and "different units" in done.out
    got = as_json(run("compare", PROMPT, "-s", "semantic", "-s", "fisher", "-j"))
    for line in got["tokens"]:
        assert line["special"] or -1 <= line["change"] <= 1


def test_two_prompts_are_aligned(run: Callable[..., Run], loader: Loader) -> None:
    tokens = as_json(run("compare", PROMPT, OTHER, "--json"))["tokens"]
    a, b = (ls.attribute(loader.model, text).tokens for text in (PROMPT, OTHER))
    assert [line["token"] for line in tokens if line["a"] is not None] == a
    assert [line["token"] for line in tokens if line["b"] is not None] == b
    alone = [line for line in tokens if None in (line["a"], line["b"])]
    assert alone and all(line["change"] is None for line in alone)
    shown = run("compare", PROMPT, OTHER).out
    assert "only in A" in shown and "only in B" in shown


def test_the_contract_of_both_is_printed_where_it_is_asked_for(run: Callable[..., Run]) -> None:
    asked = ("compare", PROMPT, "-t", " dog", "-t", " sofa")
    assert "generative process" not in run(*asked).out
    told = run(*asked, "--contract").out
    assert "generative process" in told and "A: logit of the next token ' dog'" in " ".join(told.split())


def test_texts_of_other_lengths_keep_what_they_share() -> None:
    first = fake_attribution(["<bos>", "a", "b", "d"], [9.0, 1.0, 2.0, 3.0], n_layers=0, token_ids=[0, 1, 2, 4])
    second = fake_attribution(
        ["<bos>", "a", "x", "y", "d"], [9.0, 4.0, 5.0, 6.0, 7.0], n_layers=0, token_ids=[0, 1, 5, 6, 4]
    )
    lines = first.compare(second).pairs
    assert [(line.a, line.b) for line in lines] == [(0, 0), (1, 1), (2, None), (None, 2), (None, 3), (3, 4)]
    assert [line.change for line in lines] == [None, 3.0, None, None, None, 4.0]


def test_files(run: Callable[..., Run], folder: Path) -> None:
    asked = ("compare", PROMPT, OTHER)
    assert run(*asked, "-o", "c.csv", "-o", "c.json", "-o", "c.png", "-o", "c.svg", "-o", "c.html").status == 0
    table = pandas.read_csv("c.csv")
    assert list(table.columns) == ["a", "b", "token", "special", "score_a", "score_b", "change"]
    assert json.loads((folder / "c.json").read_text())["tokens"][1]["token"] == table.token[1]
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (folder / "c.svg").read_bytes()
    assert "only in A" in (folder / "c.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "no prompt was given"),
        ([PROMPT], "nothing to compare"),
        ([PROMPT, PROMPT], "nothing to compare"),
        ([PROMPT, OTHER, PROMPT], "TEXT was given 3 times"),
        ([PROMPT, "-s", "semantic", "-s", "fishr"], "did you mean 'fisher'"),
        ([PROMPT, OTHER, "-o", "x.txt"], "cannot tell what to write"),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_model_is_loaded(
    run: Callable[..., Run], loader: Loader, folder: Path, words: list[str], error: str
) -> None:
    loader.model = AssertionError("loaded")
    done = run("compare", *words)
    assert done.status == 2 and error in done.err and len(done.err.splitlines()) == 1
    assert not list(folder.iterdir())
