"""Every study runs in its quick setting, saves a record, and draws its figures from that record alone."""

import runpy
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import draw
import numpy as np
import pytest
import run
import torch
from alignment import Pair, counts, diagonal, error_rate, links, random_counts, read_pairs
from instruction_bias import CONTROL, JudgementScale, equivalence, equivalences
from intervals import mean_interval
from judgements import BAD, GOOD
from judgements import pairs as pairs_of_judgements
from records import RESULTS, load_record
from replacement import leave_one_out
from scipy.stats import rankdata
from series import KINDS, written
from time_series import nearness, partial_spearman
from tiny_models import gemma_like, gpt2_like, llama_like
from typer.testing import CliRunner

import lens_scopes as ls
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import FileError


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many short passes: on a busy machine several threads wait for each other at each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.gemma
@pytest.mark.usefixtures("gemma", "one_thread")
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


@pytest.mark.parametrize("path", sorted(Path(run.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path: Path) -> None:
    runpy.run_path(str(path), run_name="imported")


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


def test_equivalence_is_shown_where_the_whole_interval_lies_within_the_margin() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(0, 0.1, 40)
    near, apart = equivalence(control + 0.02, control), equivalence(control + 0.4, control)
    assert near["equivalent"] and -0.25 < near["low"] < 0.02 < near["high"] < 0.25 and near["n"] == [40, 40]
    assert not apart["equivalent"] and apart["low"] > 0.25 and apart["p"] > 0.95
    few = equivalence(rng.normal(0, 0.3, 5), rng.normal(0, 0.3, 5))
    assert not few["equivalent"], "few values show no equality, whatever their means"
    for found in (near, apart, few):
        assert found["equivalent"] == (found["low"] > -0.25 and found["high"] < 0.25)


def test_the_wrong_equalities_are_claimed_by_chance_as_seldom_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    shown = [equivalence(rng.normal(0.25, 0.1, 12), rng.normal(0, 0.1, 12))["equivalent"] for _ in range(400)]
    assert 0.02 < np.mean(shown) < 0.08  # 0.05 where the true difference is the margin itself


def test_the_saved_tests_of_equivalence_are_those_of_the_saved_effects_and_of_the_gallery() -> None:
    findings = load_record(RESULTS, "instruction_bias")["findings"]
    again = equivalences(findings["attributes"])
    assert CONTROL not in again and set(again) == set(findings["equivalence"])
    gallery = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    for name, item in again.items():
        saved = findings["equivalence"][name]
        assert saved["equivalent"] == item["equivalent"] and saved["n"] == item["n"]
        for key in ("difference", "low", "high", "p", "margin"):
            assert saved[key] == pytest.approx(item[key], rel=1e-3)
        shown = f"{item['difference']:.2f} [{item['low']:.2f}, {item['high']:.2f}], p {item['p']:.2f}"
        assert name == "instruction" or f"{name} {shown.replace('-', '−')}" in gallery


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
    head = ScopedModel.of(model).unembedding()
    y = torch.linspace(-1, 1, model.cfg.d_model)
    step = 1e-4 * torch.linspace(1, -1, model.cfg.d_model).roll(3)
    exact = [FinalState(state.double(), ScopedModel.of(gpt2_like()).unembedding()) for state in (y, y + step)]
    found = FinalState(y, head).divergence(FinalState(y + step, head))
    assert found == pytest.approx(exact[0].divergence(exact[1]), rel=1e-2)


def test_gold_alignments_name_words_that_exist_and_leave_few_without_a_link() -> None:
    pairs, examples = read_pairs()
    assert len(pairs) >= 50 and len({pair.name for pair in pairs}) == len(pairs)
    shown = {sentence for sides in examples.values() for both in sides for sentence in both}
    unlinked = total = 0
    for pair in pairs:
        either = pair.sure | pair.possible
        assert pair.language in examples and not pair.sure & pair.possible and not {pair.source, pair.english} & shown
        n_source, n_english = len(pair.source_words), len(pair.english_words)
        assert all(0 <= source < n_source and 0 <= english < n_english for source, english in either)
        assert {english for _, english in either} == set(range(n_english)), pair.name
        unlinked += n_source - len({source for source, _ in either})
        total += n_source
    assert unlinked <= 0.02 * total


def test_the_error_rate_is_none_for_the_gold_links_and_all_for_others() -> None:
    pair = Pair("a", "German", "das ist gut", "this is good", frozenset({(0, 0), (1, 1)}), frozenset({(2, 2)}))
    assert error_rate([counts({(0, 0), (1, 1)}, pair)])["mean"] == 0
    assert error_rate([counts({(0, 0), (1, 1), (2, 2)}, pair)])["mean"] == 0  # possible links cost nothing
    assert error_rate([counts({(1, 0), (0, 1)}, pair)])["mean"] == 1
    # one of two found links is sure: 1 − (1 + 1) / (2 + 2)
    assert error_rate([counts({(0, 0), (2, 1)}, pair)])["mean"] == pytest.approx(0.5)
    every = [counts({(a, 0), (b, 1), (c, 2)}, pair) for a in range(3) for b in range(3) for c in range(3)]
    assert np.mean(every, axis=0) == pytest.approx(random_counts(pair))


def test_links_are_largest_scores_and_contrast_takes_out_a_column_that_is_always_large() -> None:
    scores = [[9.0, 1.0, 0.1], [9.0, 0.1, 1.0]]
    assert links(scores, contrast=False) == {(0, 0), (0, 1)}
    assert links(scores, contrast=True) == {(1, 0), (2, 1)}
    assert diagonal(3, 3) == {(0, 0), (1, 1), (2, 2)} and diagonal(2, 4) == {(0, 0), (0, 1), (1, 2), (1, 3)}


def test_series_have_the_dynamics_they_are_named_after() -> None:
    made = {kind: make(37, np.random.default_rng(5)) for kind, make in KINDS.items()}
    x = made["logistic map"]
    assert x[1:] == pytest.approx(3.9 * x[:-1] * (1 - x[:-1]))
    period = next(p for p in range(5, 10) if np.allclose(made["periodic"][p:], made["periodic"][:-p]))
    drift = made["periodic, drifted"][period:] - made["periodic, drifted"][:-period]
    assert np.ptp(drift) < 1e-9 < drift.mean()
    assert 5 < abs(made["Lorenz"]).max() < 25
    text, numbers = written(x)
    assert len(numbers) == 37 and text.count(",") == 36 and text.endswith(f"{numbers[-2]:02d},")
    assert min(numbers) == 15 and max(numbers) == 85


def test_nearness_finds_a_model_that_continues_by_analogy_and_not_one_that_looks_back() -> None:
    values = [int(v) for v in 50 + 30 * np.sin(np.arange(36) * 2 * np.pi / 7.3)]
    current = np.array(values[-2:])
    analogy = [0.0, 0.0] + [1 / (1 + float(np.linalg.norm(values[i - 2 : i] - current))) for i in range(2, 36)]
    assert nearness(analogy, values) > 0.95
    assert np.isnan(nearness([float(i) for i in range(36)], values))  # recency alone leaves nothing to correlate
    other = [nearness(analogy, values, state=state) for state in range(5, 30)]
    assert np.mean(other) < 0.5


def test_a_partial_correlation_is_that_of_residuals_of_ranks() -> None:
    generator = np.random.default_rng(0)
    held = generator.normal(size=50)
    a, b = held + generator.normal(size=50), held + generator.normal(size=50)
    ranks = [rankdata(values) for values in (a, b, held)]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert partial_spearman(a, b, held) == pytest.approx(float(np.corrcoef(*left)[0, 1]))


def test_the_direction_of_the_judgement_is_its_gradient() -> None:
    scale = JudgementScale.__new__(JudgementScale)
    scale.good, scale.bad = [1, 2], [3, 4, 5]
    model = gemma_like()  # with a soft-cap on its logits
    head, step = ScopedModel.of(model).unembedding(), 1e-6
    y = torch.linspace(-1, 2, model.cfg.d_model, dtype=torch.float64)
    state = FinalState(y, head)
    differences = [
        (scale.value(FinalState(y + step * axis, head)) - scale.value(FinalState(y - step * axis, head))) / (2 * step)
        for axis in torch.eye(model.cfg.d_model, dtype=torch.float64)
    ]
    assert scale.direction(state).tolist() == pytest.approx(differences, rel=1e-6, abs=1e-8)
    assert scale.mass(state) == pytest.approx(float(state.probabilities[1:6].sum()))


def test_pairs_of_prompts_differ_in_the_named_word_alone_and_end_before_the_judgement() -> None:
    made = pairs_of_judgements()
    assert len(made) >= 40
    judging = {*GOOD.split(), *BAD.split()}
    for pair in made:
        first, second = (prompt.split() for prompt in pair.prompts)
        differing = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
        assert differing == [pair.words] and first[-1].strip(".,") not in judging
    assert not set(GOOD.split()) & set(BAD.split())
