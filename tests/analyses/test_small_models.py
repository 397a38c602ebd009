"""The study of small models: text read once, training that goes on where it stopped, and the leaderboard's measures."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import small_models as study
import small_models_training as training
import torch
from leaderboard import Store
from records import RESULTS

import lens_scopes as ls
from lens_scopes.errors import FileError
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.statistics.comparison import paired_test

VOCABULARY, CONTEXT = 300, 16
SENTENCES = ["Return the sum of all items.", "Raise an error if the file is closed.", "The default is an empty list."]
FEW = {name: study.SMALL_METHODS[name] for name in ("FisherAtValues", "Fisher", "closeness to the end")}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one layer on sixteen made-up modules, every fourth of which is held out."""
    shapes = {
        "gpt2_like": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": CONTEXT},
        "llama_like": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"intermediate_size": 24, "max_position_embeddings": CONTEXT},
    }
    models = {name: {**config, **shapes[name], "vocab_size": VOCABULARY} for name, config in training.MODELS.items()}
    documents = {
        f"module {index}": [" ".join(SENTENCES[: 1 + (index + part) % 3]) + f" Case {index}." for part in range(6)]
        for index in range(16)
    }
    for name, value in {
        "MODELS": models,
        "VOCABULARY": VOCABULARY,
        "CONTEXT": CONTEXT,
        "ROWS": 2,
        "WARM_UP": 2,
        "CHECKPOINT_EVERY": 2,
        "HELD_OUT_ROWS": 8,
        "read_documents": lambda: documents,
        "is_held_out": lambda name: int(name.split()[1]) % 4 == 0,
    }.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(study, "TOKENS", 8)


@pytest.fixture(params=["gpt2_like", "llama_like"])
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = training.train(request.param, tmp_path, steps=4)
    assert folder is not None
    return folder


# Text


def test_paragraphs_of_docstrings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""One.\n\nTwo\nlines."""\n\nclass A:\n    """Three."""\n\n    def f(self):\n        x = "no docstring"\n'
    )
    assert list(training.docstring_paragraphs(path)) == ["One.", "Two\nlines.", "Three."]
    path.write_text("def broken(:\n")
    assert list(training.docstring_paragraphs(path)) == []
    monkeypatch.undo()
    monkeypatch.setattr(training, "PACKAGES", ())
    root = tmp_path / "library"
    (root / "tests").mkdir(parents=True)
    long = "A long paragraph. " * 30
    for name, text in {"a.py": f"{long}\n\nOnly in a.", "b.py": f"{long}\n\nShort.", "tests/c.py": long * 2}.items():
        (root / name).write_text(f'"""{text}"""\n')
    monkeypatch.setattr(training.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    assert training.read_documents() == {"stdlib/a.py": [long.rstrip(), "Only in a."]}, "b adds too little, tests none"


def test_tokens_stand_for_all_bytes_of_the_text(tmp_path: Path) -> None:
    text = training.Text.load(tmp_path)
    assert text.about["modules"] == {"train": 12, "held out": 4} and len(text.held_out) == 4
    assert sum(int(text.token_bytes[ids].sum()) for ids in text.held_out) == text.about["bytes"]["held out"]
    assert int(text.token_bytes[text.train].sum()) == text.about["bytes"]["train"]
    assert (text.train == 0).sum() == 12, "BOS before each module"
    again = training.Text.load(tmp_path)
    assert (again.train == text.train).all() and again.about == text.about


def test_passages_are_of_modules_apart_and_of_one_length(tmp_path: Path) -> None:
    text = training.Text.load(tmp_path)
    passages = study.passages(text, 4)
    assert passages == study.passages(text, 4) != study.passages(text, 4, seed=1)
    homes = []
    for passage in passages:
        assert passage[0] == 0 and len(passage) == study.TOKENS + 2
        joined = ",".join(map(str, passage[1:]))
        homes.append([index for index, ids in enumerate(text.held_out) if joined in ",".join(map(str, ids))])
    assert len(passages) == 4 and {0, 1, 2, 3} <= {index for home in homes for index in home}


# Training


def test_the_learning_rate_rises_and_falls_to_its_final_share() -> None:
    rates = [training.learning_rate(step, 10) for step in range(11)]
    assert rates[0] == training.LEARNING_RATE / 2 and rates[1] == rates[2] == training.LEARNING_RATE
    assert rates[6] == pytest.approx(training.LEARNING_RATE * (1 + training.FINAL_SHARE) / 2)
    assert rates[10] == pytest.approx(training.LEARNING_RATE * training.FINAL_SHARE)
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("name", ["gpt2_like", "llama_like"])
def test_training_goes_on_where_it_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training.train(name, tmp_path / "whole", steps=6)
    parts = tmp_path / "parts"
    advance, calls = training.Training.advance, 0

    def interrupted(self: training.Training, rows: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return advance(self, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Training, "advance", interrupted)
        training.train(name, parts, steps=6)
    assert training.Training(name, parts, 6).step == 2, "the third step was after the last checkpoint"
    assert training.train(name, parts, steps=6, seconds=-1) is None, "no time, so nothing more"
    resumed = training.train(name, parts, steps=6)
    assert whole is not None and resumed is not None
    weights = [ls.load_model(folder).state_dict() for folder in (whole, resumed)]
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], rtol=0, atol=0)
    assert training.train(name, parts, steps=6) == resumed, "a finished model is not trained again"
    assert f"{name} step 6" in capsys.readouterr().err


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    text, run = training.Text.load(tmp_path), training.Training("llama_like", tmp_path, steps=60)
    rows = training.rows_from(text.train, training.row_starts(len(text.train))[:8])
    assert (rows[:, 0] == 0).all() and rows.shape == (8, CONTEXT)
    first = [run.advance(rows) for _ in range(60)]
    assert first[0] == pytest.approx(math.log(VOCABULARY), rel=0.05) and first[-1] < first[0] - 1


def test_losses_of_tables_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VOCABULARY", 3)
    unigram, bigram = training.table_losses(np.array([0, 1, 2, 1, 2]), np.array([[0, 1, 2], [0, 2, 2]]))
    p = [2 / 8, 3 / 8, 3 / 8]
    assert unigram == pytest.approx(-4 * math.log(3 / 8))

    def following(count: int, times: int, token: int) -> float:
        return -math.log((times + 50 * p[token]) / (count + 50))

    # 0 is followed once by 1; 1 twice by 2; 2 once, by 1.
    assert bigram == pytest.approx(following(1, 1, 1) + following(2, 2, 2) + following(1, 0, 2) + following(1, 0, 2))


# The study


def test_a_finished_model_is_loaded_with_its_tokenizer(finished: Path) -> None:
    model = ls.load_model(finished)
    prompt = ls.read_prompt(model, "Return the sum")
    assert prompt.token_ids[0] == 0 and prompt.special == (True, *[False] * (len(prompt) - 1))
    assert model.tokenizer.decode(list(prompt.token_ids[1:])) == "Return the sum"
    report = json.loads((finished / "training.json").read_text())
    assert report["tokens"] == 4 * 2 * (CONTEXT - 1)
    assert set(report["bits per byte"]) == {"model", "unigram", "bigram"} and min(report["bits per byte"].values()) > 0


def test_every_method_is_one_of_the_evaluation() -> None:
    for entry in study.SMALL_METHODS.values():
        assert as_method(entry.line).name == entry.line
    assert {name for pair in study.CONTRASTS.values() for name in pair} <= set(study.SMALL_METHODS)
    assert set(study.OF_SHIPPED) <= set(study.SMALL_METHODS)
    # A contrast changes one thing alone.
    for contrast, change in {
        "site, relative": "score_site",
        "readout at the values: relative, norm": "readout",
    }.items():
        first, second = (as_method(study.SMALL_METHODS[name].line).spec for name in study.CONTRASTS[contrast])
        differences = {name for name in vars(first) if getattr(first, name) != getattr(second, name)}
        assert differences == {change}


@pytest.fixture
def measured(finished: Path) -> Callable[[], tuple[Store, list[dict[str, Any]]]]:
    def measure() -> tuple[Store, list[dict[str, Any]]]:
        model, store = ls.load_model(finished), Store.of(finished.parent / "measured")
        study.remember(store.truth.path.parent / "about.json", finished.name, study.about_model(model, finished))
        texts = study.passages(training.Text.load(finished.parent), 4)
        study.measure(
            model, finished.name, [*texts, *study.passages(training.Text.load(finished.parent), 4, 1)], store, FEW
        )
        return store, list(store.agreement.rows.values())

    return measure


def test_measurements_go_on_and_contrasts_are_paired_tests(
    measured: Callable[[], tuple[Store, list[dict[str, Any]]]], finished: Path, tmp_path: Path
) -> None:
    store, rows = measured()
    assert len(rows) == 8 * (len(FEW) + len(study.LEFT_OUT)) and not {"text", "token_ids"} & rows[0].keys()
    assert measured()[1] == rows, "nothing is measured twice"

    record = study.save(store, tmp_path)
    found = record["findings"][finished.name]
    columns = [[row["spearman, remove"] for row in rows if row["method"] == name] for name in FEW]
    assert found["passages"] == 8
    assert found["methods"]["Fisher"]["spearman, remove"]["mean"] == pytest.approx(fmean(columns[1]), rel=1e-4)
    assert found["methods"]["leave one out, zero"]["spearman, zero"]["mean"] == pytest.approx(1)
    assert found["truths"]["spearman"]["mean, zero"] == pytest.approx(
        found["methods"]["leave one out, zero"]["spearman, mean"]["mean"], rel=1e-4
    )
    effects = [value for row in store.truth.rows.values() for value in row["remove"]]
    assert found["truths"]["median KL"]["remove"] == pytest.approx(np.median(effects), rel=1e-4)
    test = found["contrasts"]["values, closeness to the end"]["spearman, remove"]
    assert test["p"] == pytest.approx(paired_test(columns[0], columns[2]).p, rel=1e-4) and test["p"] <= test["p_holm"]
    assert "site, norm" not in found["contrasts"], "its methods were not measured"
    assert any("closeness to the end" in line for line in study.summary(record))
    n_methods = len(FEW) + len(study.LEFT_OUT)
    assert sum(line.startswith("|") for line in study.tables(record)) == 2 + n_methods + 2 + len(study.CONTRASTS)


def test_passages_of_files_are_the_leaderboards_by_turns(finished: Path, tmp_path: Path) -> None:
    model, files = ls.load_model(finished), [tmp_path / "a.json", tmp_path / "b.json"]
    for path in files:
        path.write_text(json.dumps([f"{SENTENCES[0]} {path.stem} {index}" for index in range(study.CHOSEN_ON + 2)]))
    texts = study.passages_of_files(model, files, 3)
    endings = [model.tokenizer.decode(list(ids))[-5:].split()[-1] for ids in texts]
    assert endings == ["50", "50", "51"] and all(len(ids) == study.TOKENS + 2 and ids[0] == 0 for ids in texts)
    assert texts[0] != texts[1]


def test_measurements_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "about.json"
    study.remember(path, "gpt2_like", {"weights": "a"})
    study.remember(path, "llama_like", {"weights": "b"})
    study.remember(path, "gpt2_like", {"weights": "a"})
    assert set(json.loads(path.read_text())) == {"gpt2_like", "llama_like"}
    with pytest.raises(FileError, match="weights a, and these are c"):
        study.remember(path, "gpt2_like", {"weights": "c"})
    with pytest.raises(FileError, match="nothing has been measured"):
        study.save(Store.of(tmp_path / "none"), tmp_path)


def test_the_saved_record_is_of_models_worth_asking() -> None:
    path = RESULTS / "small_models.json"
    if not path.is_file():
        pytest.skip("the study has not been run")
    record = json.loads(path.read_text(encoding="utf-8"))
    for name, found in record["findings"].items():
        if name != study.SHIPPED:
            bits = record["models"][name]["training"]["bits per byte"]
            assert bits["model"] < bits["bigram"] < bits["unigram"]
        assert len(found["contrasts"]) >= 8
        assert all(f"spearman, {ablation}" in of for of in found["contrasts"].values() for ablation in study.ABLATIONS)
