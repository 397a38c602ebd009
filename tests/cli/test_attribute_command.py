"""The command line on a tiny model: what it prints, what it writes, and one line for everything that does not fit."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import typer
from command_line import PROMPT, WORDS, Loader, Run, as_json, tokenizer
from tiny_models import neox_like

import lens_scopes as ls
from lens_scopes.cli import main
from lens_scopes.cli.app import app
from lens_scopes.models.load import AvailableModel, load_model

COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]

# What it computes and prints


def test_json_is_the_result_of_the_python_call_and_nothing_else(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(
        run("attribute", PROMPT, "--scope", "logprob", "--target", " sofa", "--layers", "--site", "hook_z", "--json")
    )
    expected = ls.attribute(loader.model, PROMPT, ls.LogProb(" sofa"), layers=True, sites="hook_z").to_dict()
    assert got == json.loads(json.dumps(expected))
    assert got["target"]["token"] == " sofa"
    assert len(got["layers"]) == 2


@pytest.mark.parametrize(
    ("options", "objective", "settings"),
    [
        (["--scope", "semantic"], ls.Semantic(), {}),
        (["--scope", "semantic", "--target", "#8"], ls.Semantic(8), {}),
        (["--scope", "logit-diff", "--target", " sofa", "--other", " dog"], ls.LogitDiff(" sofa", " dog"), {}),
        (["--scope", "temperature"], ls.Temperature(), {}),
        (["--scope", "entropy", "--position", "2"], ls.Entropy(), {"position": 2}),
        (["--scope", "fisher", "--rank", "3"], ls.Fisher(3), {}),
        (["--scope", "fisher", "--rank", "trace"], ls.Fisher("trace"), {}),
        (
            ["--scope", "fisher", "--rank", "trace", "--samples", "4", "--seed", "7"],
            ls.Fisher("trace", samples=4, seed=7),
            {},
        ),
        (["--scope", "logprob", "--answer", " sofa dog"], ls.LogProb(), {"answer": " sofa dog"}),
        (["--scope", "fisher", "--generate", "3", "--eligible", "all"], ls.Fisher(), {"answer": 3, "eligible": "all"}),
        (["--scope", "fisher", "--generate", "2", "--samples", "4"], ls.Fisher(1, samples=4), {"answer": 2}),
        (
            ["--scope", "logprob-diff", "--answer", " sofa", "--other", "#8#7", "--readout", "dot"],
            ls.LogProbDiff(" sofa", (8, 7)),
            {"readout": "dot"},
        ),
        (["--readout", "dot"], ls.Semantic(), {"readout": "dot"}),
        (["--layer-site", "resid_mid"], ls.Semantic(), {"layers": "resid_mid"}),
        (["--no-layers", "--layer-site", "resid_mid"], ls.Semantic(), {}),
        (["--through", "1"], ls.Semantic(), {"through": ls.Layers(1)}),
        (
            ["--through", "attention", "--freeze", "norms"],
            ls.Semantic(),
            {"through": ls.Attention() & ls.Frozen("norms")},
        ),
        (["--freeze", "patterns", "--freeze", "norms"], ls.Semantic(), {"through": ls.Frozen("patterns", "norms")}),
        (["--through", "gim"], ls.Semantic(), {"through": ls.Rules("gim")}),
        (
            ["--through", "0", "--rules", "relp", "--rules", "softmax@3"],
            ls.Semantic(),
            {"through": ls.Layers(0) & ls.Rules("relp", "softmax@3")},
        ),
    ],
)
def test_options_say_what_the_python_arguments_say(
    run: Callable[..., Run], loader: Loader, options: list[str], objective: ls.Objective, settings: dict[str, Any]
) -> None:
    got = as_json(run("attribute", PROMPT, *options, "--json"))
    expected = ls.attribute(loader.model, PROMPT, objective, **settings)
    assert got == json.loads(json.dumps(expected.to_dict()))


def test_a_lens_reads_the_layers_as_tokens(run: Callable[..., Run], loader: Loader, tmp_path: Path) -> None:
    got = as_json(run("attribute", PROMPT, "--lens", "logit@2", "--json"))
    expected = ls.attribute(loader.model, PROMPT, lens=ls.LogitLens(2)).to_dict()
    assert got == json.loads(json.dumps(expected)) and len(got["lens"]["tokens"][0][1]) == 2
    assert "reads as" in run("attribute", PROMPT, "--lens", "logit").out
    for lens in ("tuned", str(tmp_path / "none.pt")):
        refused = run("attribute", PROMPT, "--lens", lens)
        assert refused.status == 2 and len(refused.err.strip().splitlines()) == 1


def test_the_layers_command_reads_every_layer(run: Callable[..., Run], loader: Loader) -> None:
    got = as_json(run("attribute", PROMPT, "--layer-site", "resid_post", "--json"))
    assert got["layer_names"] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert as_json(run("attribute", PROMPT, "--layers", "--json"))["layer_names"][0] == "blocks.0.hook_resid_pre"


def test_the_model_is_loaded_as_asked(run: Callable[..., Run], loader: Loader) -> None:
    options = ["--model", "some/model", "--backend", "bridge", "--device", "cpu", "--dtype", "bfloat16"]
    options += ["--processing", "fold_ln, center_unembed", "--architecture", "gpt2"]
    assert run("attribute", PROMPT, *options).status == 0
    assert loader.calls == [
        (
            "some/model",
            {
                "backend": "bridge",
                "device": "cpu",
                "n_devices": 1,
                "device_map": None,
                "dtype": "bfloat16",
                "processing": {"fold_ln": True, "center_unembed": True},
                "architecture": "gpt2",
                "trust_remote_code": False,
            },
        )
    ]
    for word, flag in (("none", False), ("all", True)):
        run("attribute", PROMPT, "--processing", word)
        assert loader.calls[-1][1]["processing"] is flag


def test_the_terminal_view_names_every_token_the_prediction_and_the_contract(run: Callable[..., Run]) -> None:
    result = run("attribute", PROMPT, "--target", " sofa", "--contract")
    assert result.status == 0 and result.err == ""
    for word in ("dog", "sleeps", "on", "the", "sofa", *("output explained", "held fixed", "score attributed")):
        assert word in result.out


def test_a_target_that_may_lack_its_leading_space_is_remarked_on(run: Callable[..., Run], loader: Loader) -> None:
    """Both "on" and " on" are tokens here, and only the second is likely."""
    loader.model.tokenizer.add_tokens(["on"])
    loader.model.unembed.b_U.data[WORDS.index(" on")] = 9.0
    loader.model.unembed.b_U.data[loader.model.tokenizer.convert_tokens_to_ids("on")] = -9.0
    written = run("attribute", PROMPT, "--target", "on", "--json")
    assert written.err == "" and as_json(written)["target"]["token"] == "on"
    (warning,) = as_json(written)["warnings"]
    assert "'on' has no space before it" in warning and "' on' has" in warning
    assert "has no space before it" in run("attribute", PROMPT, "--target", "on").out
    for target in (" on", " dog"):
        assert as_json(run("attribute", PROMPT, "--target", target, "--json"))["warnings"] == []


def test_the_layers_view_has_a_line_for_every_layer(run: Callable[..., Run]) -> None:
    result = run("attribute", PROMPT, "--layers")
    assert result.status == 0
    assert "L0–L1" in result.out or {"L0", "L1"} <= set(result.out.split())


# Where the prompt comes from


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (PROMPT.encode(), PROMPT),
        (PROMPT.encode() + b"\n", PROMPT),
        (PROMPT.encode() + b"\r\n", PROMPT),
        (PROMPT.encode() + b"\n\n", PROMPT + "\n"),
        (b"\xef\xbb\xbf" + PROMPT.encode(), PROMPT),
        ("The dog schläft 🛋".encode(), "The dog schläft 🛋"),
    ],
)
def test_standard_input_and_files_lose_one_line_break_and_no_more(
    run: Callable[..., Run], folder: Path, content: bytes, text: str
) -> None:
    (folder / "prompt.txt").write_bytes(content)
    assert as_json(run("attribute", "-", "--json", stdin=content))["text"] == text
    assert as_json(run("attribute", "--file", "prompt.txt", "--json"))["text"] == text


def test_a_chat_is_read_from_a_file(run: Callable[..., Run], loader: Loader, folder: Path) -> None:
    loader.model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}.{% endfor %}"
    (folder / "chat.json").write_text(json.dumps([{"role": "user", "content": "The dog schläft"}]), encoding="utf-8")
    got = as_json(run("attribute", "--chat", "chat.json", "--json"))
    assert "".join(got["tokens"]).startswith("<bos>The dog schläft")


# What it writes


def test_every_kind_of_file_is_written_and_announced(run: Callable[..., Run], loader: Loader, folder: Path) -> None:
    names = ["page.html", "result.safetensors", "figure.png", "figure.svg", "figure.PDF", "scores.csv", "scores.json"]
    result = run("attribute", PROMPT, "--layers", *(f"--out={name}" for name in names))
    assert result.status == 0
    assert result.err.splitlines() == [f"lens-scopes: wrote {name}" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)

    expected = ls.attribute(loader.model, PROMPT, layers=True)
    assert torch.equal(ls.Attribution.load("result.safetensors").scores, expected.scores)
    assert (folder / "page.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figure.PDF").read_bytes().startswith(b"%PDF")
    assert "<svg" in (folder / "figure.svg").read_text(encoding="utf-8")
    table = pandas.read_csv(folder / "scores.csv")
    assert table["token"].tolist() == expected.tokens
    assert table["blocks.1.hook_resid_pre"].tolist() == pytest.approx(expected.layers[1].tolist())  # pyright: ignore
    assert json.loads((folder / "scores.json").read_text()) == json.loads(json.dumps(expected.to_dict()))


def test_json_stays_alone_on_standard_output_beside_files(run: Callable[..., Run]) -> None:
    result = run("attribute", PROMPT, "--json", "--out", "page.html")
    assert as_json(result)["tokens"][0] == "<bos>"
    assert result.err == "lens-scopes: wrote page.html\n"


def test_what_a_library_prints_does_not_reach_standard_output(
    run: Callable[..., Run], loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(name: str, **options: Any) -> Any:
        print("Loaded pretrained model")
        return loader.model

    monkeypatch.setattr("lens_scopes.models.load.load_model", chatty)
    result = run("attribute", PROMPT, "--json")
    as_json(result)
    assert result.err == "Loaded pretrained model\n"


def test_words_group_their_tokens_in_table_json_and_terminal(run: Callable[..., Run], folder: Path) -> None:
    text = "The dog.\nThe sofa"
    got = as_json(run("attribute", text, "--group", "line", "--json", "--out", "lines.csv"))
    assert [group["label"] for group in got["groups"]] == ["<bos>", "The dog.", "The sofa"]
    assert sum(group["score"] for group in got["groups"]) == pytest.approx(sum(got["scores"]))
    assert pandas.read_csv(folder / "lines.csv")["label"].tolist() == ["<bos>", "The dog.", "The sofa"]
    assert "The dog." in run("attribute", text, "--group", "line").out
    got = as_json(run("attribute", "The dog. The sofa", "--group", "sentence", "--json"))
    assert [group["text"] for group in got["groups"]] == ["<bos>", "The dog.", " The sofa"]
    assert "no turns to group by" in run("attribute", text, "--group", "turn").err


def test_the_page_opens_folded_and_a_part_alone_is_eligible(run: Callable[..., Run], folder: Path) -> None:
    text = "The dog. The sofa. The dog on the"
    run("attribute", text, "--group", "sentence", "--out", "page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert '"fold": "sentence"' in page or '"fold":"sentence"' in page
    asked = ("attribute", text, "--scope", "leave-one-out", "--by", "sentence", "--within")
    for part in ("The dog. The sofa.", "1:7"):
        got = as_json(run(*asked, part, "--group", "sentence", "--json"))
        assert [bool(group["score"]) for group in got["groups"]] == [False, True, True, False]
        assert "those within" in got["contract"]["eligible features"]
    refused = run(*asked, "The sofa.")
    assert refused.status == 2 and "has 1; give a longer part, or choose by='word'" in refused.err
    refused = run(*asked, "a cat")
    assert refused.status == 2 and "neither a span's name nor a part of the prompt's text" in refused.err


def test_a_saved_result_is_shown_again_and_converted(run: Callable[..., Run], folder: Path) -> None:
    first = run("attribute", PROMPT, "--layers", "--out", "result.safetensors")
    again = run("show", "result.safetensors", "--out", "page.html")
    assert again.status == 0 and again.out == first.out
    assert (folder / "page.html").is_file()
    assert as_json(run("show", "result.safetensors", "--json"))["tokens"][1] == "The"


def test_scores_that_are_not_finite_are_null_in_json(run: Callable[..., Run], loader: Loader) -> None:
    attribution = ls.attribute(loader.model, PROMPT)
    attribution.scores[1], attribution.scores[2] = float("nan"), float("inf")
    attribution.save("odd.safetensors")
    assert as_json(run("show", "odd.safetensors", "--json"))["scores"][1:3] == [None, None]


# Models


@pytest.fixture
def known_models(monkeypatch: pytest.MonkeyPatch) -> list[AvailableModel]:
    known = [
        AvailableModel("gemma-3-270m", (), True),
        AvailableModel("EleutherAI/pythia-14m", ("pythia-14m",), False),
        AvailableModel("openai-community/gpt2", ("gpt2",), True),
    ]
    monkeypatch.setattr("lens_scopes.models.load.available_models", lambda: known)
    return known


def test_models_come_embedded_first_then_those_in_the_cache(
    run: Callable[..., Run], known_models: list[AvailableModel]
) -> None:
    listed = run("models").out.splitlines()
    assert [line.split() for line in listed] == [
        ["gemma-3-270m", "embedded"],
        ["openai-community/gpt2", "cached", "gpt2"],
        ["EleutherAI/pythia-14m", "hub", "pythia-14m"],
    ]
    assert as_json(run("models", "--json"))[1] == {
        "name": "openai-community/gpt2",
        "aliases": ["gpt2"],
        "cached": True,
    }


def test_models_are_filtered_by_name_and_alias(run: Callable[..., Run], known_models: list[AvailableModel]) -> None:
    assert run("models", "GEMMA").out.split() == ["gemma-3-270m", "embedded"]
    assert [item["name"] for item in as_json(run("models", "gpt2", "--json"))] == ["openai-community/gpt2"]
    nothing = run("models", "llama")
    assert (nothing.status, nothing.out) == (0, "") and "no known name contains 'llama'" in nothing.err


# What does not fit: exit status 2, one line, nothing on standard output, nothing written

LONG = " dog" * 40

BEFORE_LOADING = {
    "answer and target": (
        [PROMPT, "--answer", " sofa", "--target", " dog"],
        "names its own token, so the answer's would be",
    ),
    "answer given and generated": ([PROMPT, "--answer", " sofa", "--generate", "3"], "ask for one of them"),
    "eligible without an answer": ([PROMPT, "--eligible", "all"], "give answer="),
    "samples without an answer": ([PROMPT, "--scope", "fisher", "--samples", "4"], "and samples and seed to answers"),
    "no prompt": ([], "no prompt was given"),
    "empty prompt": ([""], "the prompt is empty"),
    "two prompts": ([PROMPT, "--file", "prompt.txt"], "TEXT and --file were given"),
    "missing file": (["--file", "missing.txt"], "cannot read missing.txt: No such file"),
    "missing chat": (["--chat", "missing.json"], "cannot read missing.json: No such file"),
    "unknown scope": ([PROMPT, "--scope", "fischer"], "unknown scope 'fischer'; did you mean 'fisher'?"),
    "rank 0": ([PROMPT, "--scope", "fisher", "--rank", "0"], 'a positive integer or "trace"; got 0'),
    "rank in words": ([PROMPT, "--scope", "fisher", "--rank", "all"], "got 'all'"),
    "one sample": ([PROMPT, "--scope", "fisher", "--rank", "trace", "--samples", "1"], "at least 2"),
    "samples of nothing": ([PROMPT, "--scope", "fisher", "--samples", "8"], 'belong to rank "trace"'),
    "target of no token scope": ([PROMPT, "--scope", "entropy", "--target", " sofa"], "'entropy' has no target"),
    "rank of no Fisher": ([PROMPT, "--rank", "2"], "'semantic' has no rank; it belongs to fisher"),
    "one token to contrast": (
        [PROMPT, "--scope", "logit-diff", "--target", " sofa"],
        "needs target and other; other is missing",
    ),
    "unknown readout": ([PROMPT, "--readout", "nrom"], "did you mean 'norm'?"),
    "unknown path": ([PROMPT, "--through", "sideways"], "'sideways' is not a path"),
    "unknown frozen part": ([PROMPT, "--freeze", "weights"], "got ['weights']"),
    "unknown rule": ([PROMPT, "--rules", "gimm"], "did you mean 'gim'?"),
    "unknown grouping": ([PROMPT, "--group", "verse"], "unknown grouping 'verse'"),
    "unknown kind of file": ([PROMPT, "--out", "page.docx"], "page.docx; give it one of the suffixes .html"),
    "no kind of file": ([PROMPT, "--out", "page"], "one of the suffixes"),
    "missing folder": ([PROMPT, "--out", "missing/page.html"], "cannot write missing/page.html: No such file"),
    "folder for a file": ([PROMPT, "--out", "folder.html"], "folder.html: it is a folder"),
    "file for a folder": ([PROMPT, "--out", "prompt.txt/page.html"], "Not a directory"),
    "good file, then a bad one": ([PROMPT, "--out", "page.html", "--out", "page.docx"], "page.docx"),
    "position in words": ([PROMPT, "--position", "last"], "'--position'"),
    "unknown option": ([PROMPT, "--scpoe", "fisher"], "No such option: --scpoe"),
}

AFTER_LOADING = {
    "beyond the context window": ([LONG], "41 tokens, but the model's context window holds 32"),
    "position out of range": ([PROMPT, "--position", "6"], "position 6 is outside the prompt of 6 tokens"),
    "target of two tokens": ([PROMPT, "--target", " dog sleeps"], "2 tokens (' dog' #3, ' sleeps' #4)"),
    "target that is no token": ([PROMPT, "--target", "Sofa"], "'Sofa' is not in the tokenizer's vocabulary"),
    "target outside the vocabulary": ([PROMPT, "--target", "#23"], "token id 23 is outside"),
    "rank above d_model": ([PROMPT, "--scope", "fisher", "--rank", "17"], "above d_model = 16"),
    "empty answer": ([PROMPT, "--answer", ""], "the answer '' is empty"),
    "answer after a position": ([PROMPT, "--answer", " sofa", "--position", "1"], "position=1 does not apply"),
    "answer of no token": ([PROMPT, "--generate", "0"], "at least one token"),
    "unknown site": ([PROMPT, "--site", "blocks.0.hook_resid_per"], "blocks.0.hook_resid_pre"),
    "unknown layer site": ([PROMPT, "--layer-site", "resid"], "layers='resid' is not a residual site"),
    "layer out of range": ([PROMPT, "--through", "5-9"], "layer 5 does not exist"),
    "rule without a place": ([PROMPT, "--rules", "half-gate"], "have no gate"),
    "chat without a template": (["--chat", "chat.json"], "template"),
}


def assert_refused(result: Run, said: str) -> None:
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.startswith("lens-scopes: ") and result.err.endswith("\n")
    assert result.err.count("\n") == 1, "more than one line"
    assert said in result.err


@pytest.fixture
def untouched(folder: Path) -> Iterator[Path]:
    """A folder with a few inputs, in which nothing may appear or change."""
    (folder / "prompt.txt").write_text(PROMPT)
    (folder / "chat.json").write_text('[{"role": "user", "content": "The dog"}]')
    (folder / "folder.html").mkdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("command", ["attribute"])
@pytest.mark.parametrize("case", BEFORE_LOADING)
def test_what_can_be_refused_without_the_model_is_refused_before_it_is_loaded(
    run: Callable[..., Run], loader: Loader, untouched: Path, command: str, case: str
) -> None:
    arguments, said = BEFORE_LOADING[case]
    assert_refused(run(command, *arguments), said)
    assert loader.calls == []


@pytest.mark.parametrize("case", AFTER_LOADING)
def test_what_does_not_fit_the_model_is_refused_with_nothing_written(
    run: Callable[..., Run], untouched: Path, case: str
) -> None:
    arguments, said = AFTER_LOADING[case]
    assert_refused(run("attribute", *arguments, "--out", "page.html", "--out", "result.safetensors", "--json"), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"The dog \xff", "standard input is not valid UTF-8: byte 0xff at offset 8"),
        (b"The dog \xe2\x82", "not valid UTF-8: byte 0xe2 at offset 8"),
        ("The dog".encode("utf-16"), "not valid UTF-8"),
        (b"", "the prompt is empty"),
        (b"\n", "the prompt is empty"),
    ],
)
def test_bad_standard_input_is_refused(
    run: Callable[..., Run], loader: Loader, untouched: Path, content: bytes, said: str
) -> None:
    assert_refused(run("attribute", "-", "--out", "page.html", stdin=content), said)
    assert loader.calls == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "chat.json is not JSON"),
        (b'"The dog"', "chat.json is not a chat"),
        (b"[1, 2]", "chat.json is not a chat"),
        (b"[]", "chat.json is not a chat"),
        (b"[" * 100_000, "chat.json is not JSON"),
        (b'[{"role": "user", "content": "\xff"}]', "chat.json is not valid UTF-8"),
    ],
)
def test_a_file_that_is_no_chat_is_refused(
    run: Callable[..., Run], loader: Loader, folder: Path, content: bytes, said: str
) -> None:
    (folder / "chat.json").write_bytes(content)
    assert_refused(run("attribute", "--chat", "chat.json"), said)
    assert loader.calls == []


def test_activations_that_are_not_finite_are_refused_with_the_layer(
    run: Callable[..., Run], loader: Loader, untouched: Path
) -> None:
    loader.model.blocks[1].mlp.W_out.data[0, 0] = float("nan")
    assert_refused(run("attribute", PROMPT, "--out", "page.html"), "blocks.1.hook_resid_post")


def test_a_site_the_architecture_lacks_is_refused(run: Callable[..., Run], loader: Loader, untouched: Path) -> None:
    parallel = neox_like()
    parallel.tokenizer = tokenizer()
    loader.model = parallel
    assert_refused(run("attribute", PROMPT, "--layer-site", "resid_mid"), "blocks.0.hook_resid_mid")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "gemma-3-270n"], "did you mean 'gemma-3-270m'"),
        (["--model", "./missing"], "model folder 'missing' does not exist"),
        (["--model", "."], "has no config.json"),
        (["--backend", "booked"], "unknown backend 'booked'"),
        (["--dtype", "float8"], "dtype 'float8' is unknown"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--processing", "fold"], "'fold'"),
    ],
)
def test_models_that_cannot_be_loaded_are_refused(
    run: Callable[..., Run], untouched: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.setattr("lens_scopes.models.load.load_model", load_model)
    assert_refused(run("attribute", PROMPT, *options, "--out", "page.html"), said)


def test_a_message_of_several_lines_becomes_one(run: Callable[..., Run], loader: Loader, untouched: Path) -> None:
    loader.model = ls.LensScopesError("the cache is damaged:\nremove it")
    assert_refused(run("attribute", PROMPT), "the cache is damaged: remove it")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that refuses to be written")
def test_a_folder_that_cannot_be_written_is_refused(run: Callable[..., Run], loader: Loader, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert_refused(run("attribute", PROMPT, "--out", "locked/page.html"), "Permission denied")
    assert loader.calls == []


def test_a_write_that_fails_leaves_the_old_file_whole(
    run: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "page.html").write_text("the old page")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert_refused(run("attribute", PROMPT, "--out", "page.html"), "cannot write page.html: No space left on device")
    assert [path.name for path in folder.iterdir()] == ["page.html"]
    assert (folder / "page.html").read_text() == "the old page"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.safetensors", None, "missing.safetensors does not exist"),
        ("truncated.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{", "not a readable safetensors file"),
        ("page.html", b"<html>", "not a readable safetensors file"),
    ],
)
def test_files_that_hold_no_result_are_refused(
    run: Callable[..., Run], folder: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    assert_refused(run("show", name, "--out", "again.html"), said)
    assert not (folder / "again.html").exists()


def test_usage_errors_are_one_line_too(run: Callable[..., Run]) -> None:
    assert_refused(run("atribute", PROMPT), "atribute")
    assert_refused(run("show"), "FILE.safetensors")


# What is nobody's wrong input


def test_ctrl_c_ends_with_130_and_a_word(run: Callable[..., Run], loader: Loader, untouched: Path) -> None:
    loader.model = KeyboardInterrupt()
    result = run("attribute", PROMPT, "--out", "page.html")
    assert (result.status, result.out, result.err) == (130, "", "lens-scopes: interrupted.\n")


@pytest.mark.usefixtures("usual_signals")
def test_ctrl_c_is_recognised_through_the_error_that_a_library_makes_of_it(
    run: Callable[..., Run], loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def importing(name: str, **options: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise loader.model from error

    monkeypatch.setattr("lens_scopes.models.load.load_model", importing)
    for loader.model in (ls.LensScopesError("could not be loaded"), ModuleNotFoundError("could not be imported")):
        assert run("attribute", PROMPT) == (130, "", "lens-scopes: interrupted.\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_defect_is_not_passed_off_as_wrong_input(loader: Loader, folder: Path) -> None:
    loader.model = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        main(["attribute", PROMPT])


def test_help_and_version(run: Callable[..., Run]) -> None:
    assert run("--version").out == f"lens-scopes {ls.__version__}\n"
    bare, asked = run(), run("--help")
    assert bare == asked and asked.status == 0
    assert run("-h") == bare and "attribute" in asked.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_speaks_of_values_and_gives_examples_that_parse(run: Callable[..., Run], command: str) -> None:
    text = run(command, "--help").out
    assert run(command, "-h").out == text
    assert not re.search(r"<(bool|str|int|float|path|list)|\[-?[\d.]*(<=)?x[<>]=", text), "types of Python"
    assert "token|word" not in text, "a choice that breaks in the middle of a word"
    lines = [line.strip() for line in COMMANDS[command].epilog.splitlines()]
    assert lines[0] == "Examples:" and len(lines) > 1
    for line in lines[1:]:
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("lens-scopes", command)
        COMMANDS[command].make_context(command, arguments)


def test_everyday_options_come_first_and_have_short_forms(
    run: Callable[..., Run], loader: Loader, folder: Path
) -> None:
    panel = run("attribute", "-h").out.partition("╭─ Options")[2].partition("╭─ ")[0]
    assert all(option in panel for option in ("--target", "--scope", "--layers", "--out", "--model", "--json"))
    long = run("attribute", PROMPT, "--scope", "logprob", "--target", " dog", "--layers", "--json")
    assert run("attribute", PROMPT, "-s", "logprob", "-t", " dog", "-l", "-j") == long
    assert run("attribute", PROMPT, "-o", "page.html").status == 0 and (folder / "page.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["attribute", "x", "--scope", "fishr"],
        ["attribute", "x", "--scope", "fisher@8+dotty"],
        ["attribute", "x", "--through", "banana"],
        ["attribute", "x", "--through", "L3Hx"],
        ["attribute", "x", "--readout", "banana"],
        ["attribute", "x", "--points", "banana"],
        ["heads", "x", "--freeze", "banana"],
        ["matrix", "x", "--rules", "banana"],
        ["compare", "x", "y", "--through", "banana"],
        ["attribute", "x", "--layer-site", "banana"],
        ["attribute", "x", "--eligible", "banana"],
        pytest.param(["attribute", "x", "--model", "nonsense-7b"], id="unknown model"),
        ["flow", "x", "--model", "./missing"],
        ["heads", "x", "--baseline", "foo"],
        ["compare", "x"],
    ],
)
def test_wrong_choices_are_refused_before_torch_is_imported(arguments: list[str]) -> None:
    assert imported(arguments) == (2, "")


def test_the_contract_is_printed_when_asked_for(run: Callable[..., Run]) -> None:
    assert "held fixed" not in run("attribute", PROMPT).out
    shown = run("attribute", PROMPT, "--contract", "--with", "modes").out
    assert shown.count("held fixed") == 2
    assert "held fixed" in run("heads", PROMPT, "--verify", "0", "--contract").out


# For a process of its own, wherever it runs and whether or not the package is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(ls.__file__).parents[1])}
HEAVY = "torch transformer_lens transformers matplotlib pandas circuitsvis safetensors"


@pytest.mark.parametrize("arguments", [["--help"], ["attribute", "--help"], ["--version"], ["atribute"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(arguments)[1] == ""


def imported(arguments: list[str]) -> tuple[int, str]:
    """The exit status of a command in a new process, and the heavy modules that it imported."""
    program = (
        "import sys\nfrom lens_scopes.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit as end: print(end.code or 0, *sorted(set({HEAVY!r}.split()) & set(sys.modules)), sep='|')"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    status, *heavy = finished.stdout.splitlines()[-1].split("|")
    return int(status), " ".join(heavy)


def test_a_reader_that_leaves_early_is_not_told_off(run: Callable[..., Run], folder: Path) -> None:
    assert run("attribute", PROMPT, "--out", "result.safetensors").status == 0
    for options in (["--json"], []):
        command = [sys.executable, "-m", "lens_scopes", "show", "result.safetensors", *options]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
            assert process.stdout and process.stderr
            process.stdout.close()
            said = process.stderr.read()
        assert (process.returncode, said) == (1, "")


@pytest.mark.gemma
def test_the_demo_puts_the_sofa_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
    with pytest.raises(SystemExit) as exit_:
        main(["attribute", prompt, "--scope", "fisher", "--layers", "--json", "--out", "page.html"])
    assert not exit_.value.code
    result = json.loads(capsys.readouterr().out)
    content = {i: score for i, score in enumerate(result["scores"]) if not result["special"][i]}
    assert result["tokens"][max(content, key=content.__getitem__)] == " Sofa"
    assert result["prediction"]["top"][0]["token"] == " sofa"
    assert len(result["layers"]) == 18
    assert "Sofa" in (folder / "page.html").read_text(encoding="utf-8")
