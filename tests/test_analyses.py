"""Every study runs in its quick setting, saves a record, and draws its figures from that record alone."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import draw
import numpy as np
import pytest
import run
import torch
from intervals import mean_interval
from records import RESULTS, load_record
from replacement import divergence, leave_one_out
from tiny_models import gpt2_like, llama_like
from typer.testing import CliRunner

import lens_scopes as ls
from lens_scopes.errors import FileError
from lens_scopes.final_state import FinalState, unembedding


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.gemma
@pytest.mark.parametrize("study", run.STUDIES)
def test_a_study_runs_quickly_and_draws_from_its_record(
    study: str, gemma: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "KINDS", {"png": 50})
    run.run_study(gemma, study, tmp_path, quick=True, seed=3)
    record = load_record(tmp_path, study)
    assert record["settings"]["quick"] is True and record["seconds"] > 0
    assert record["model"]["name"] == "gemma-3-270m" and "torch" in record["versions"]
    assert all(isinstance(line, str) and line for line in draw.import_module(study).summary(record))
    for path in draw.draw_study(study, tmp_path, tmp_path):
        assert path.stat().st_size > 1000
        if path.suffix == ".html":
            HTMLParser().feed(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("study", run.STUDIES)
def test_saved_results_are_of_full_size_and_draw_all_figures(study: str) -> None:
    record = load_record(RESULTS, study)
    assert record["settings"]["quick"] is False
    figures = draw.import_module(study).draw(record)
    assert figures and all((draw.FIGURES / f"{stem}.{kind}").is_file() for stem in figures for kind in draw.KINDS)


def test_a_study_that_was_not_run_says_how_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="run.py --only translation"):
        load_record(tmp_path, "translation")


@pytest.mark.parametrize("arguments", [[], ["--all", "--only", "through_layers"], ["--only", "tranlation"]])
def test_the_command_line_names_the_studies(arguments: list[str]) -> None:
    import typer

    app = typer.Typer()
    app.command()(run.main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "through_layers" in result.output


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = mean_interval(generator.normal(1.0, 2.0, 40).tolist(), seed)
        hits += interval["low"] <= 1.0 <= interval["high"]
    assert 180 <= hits <= 198
    assert mean_interval([1.0, float("nan"), 3.0]) == {"mean": 2.0, "low": None, "high": None, "n": 2, "left_out": 1}


def test_leaving_one_out_equals_a_forward_pass_with_that_embedding_replaced() -> None:
    model, ids = gpt2_like(), [3, 7, 1, 12, 5]
    embeddings = model.W_E[ids]
    before = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
    expected = []
    for index in range(len(ids)):

        def replace(value: torch.Tensor, hook: Any, index: int = index) -> torch.Tensor:
            value = value.clone()
            value[0, index] = embeddings.mean(0)
            return value

        after = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[("hook_embed", replace)])[0, -1].log_softmax(-1)
        expected.append(float((before.exp() * (before - after)).sum()))
    assert leave_one_out(model, ids) == pytest.approx(expected, rel=1e-9)


def test_a_small_step_has_the_divergence_that_the_fisher_information_predicts() -> None:
    model, ids, share = llama_like(), [3, 7, 1, 12, 5], 1e-4
    found = leave_one_out(model, ids, share)
    whole = ls.attribute(model, ids, ls.Fisher("trace"), readout=ls.Dot("mean"))
    assert found == pytest.approx((0.5 * share**2 * whole.scores).tolist(), rel=2e-3)


def test_a_tiny_divergence_is_not_lost_in_rounding() -> None:
    model = gpt2_like(dtype=torch.float32)
    head = unembedding(model)
    y = torch.linspace(-1, 1, model.cfg.d_model)
    step = 1e-4 * torch.linspace(1, -1, model.cfg.d_model).roll(3)
    exact = [FinalState(state.double(), unembedding(gpt2_like())) for state in (y, y + step)]
    found = divergence(FinalState(y, head), FinalState(y + step, head))
    assert found == pytest.approx(divergence(*exact), rel=1e-2)
