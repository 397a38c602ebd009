"""Modes: decoded contrasts are derivatives of the distribution, and replacements are checked by doing them."""

from dataclasses import replace

import pytest
import torch
from reference import final_state, fisher_matrix, kl, logits_from_final_state, site_activation, state_of
from tiny_models import learned_positions_with_bU

import lens_scopes as ls
from lens_scopes.engine.fisher import PredictiveGeometry
from lens_scopes.errors import ReadoutError
from lens_scopes.results.modes import ProbabilityChange, percentage_points

IDS = [3, 7, 1, 7, 4, 9, 2]
D_VOCAB = 23


def distribution(model, y: torch.Tensor) -> torch.Tensor:
    return logits_from_final_state(model, y).softmax(-1)


def test_contrasts_are_the_derivative_of_the_distribution_along_eigenvectors(tiny):
    found = ls.inspect_modes(tiny, IDS, rank=3, top_tokens=D_VOCAB)
    y = state_of(tiny, IDS)
    eigenvalues, vectors = torch.linalg.eigh(fisher_matrix(tiny, y))
    for index, mode in enumerate(found.modes):
        value, vector = eigenvalues[-1 - index], vectors[:, -1 - index]
        assert mode.eigenvalue == pytest.approx(float(value), rel=1e-9)
        step = 1e-6
        slope = (distribution(tiny, y + step * vector) - distribution(tiny, y - step * vector)) / (2 * step)
        slope = slope / value.sqrt()
        slope = slope if slope.max() >= -slope.min() else -slope
        decoded = torch.zeros(D_VOCAB, dtype=torch.float64)
        for shift in (*mode.rising, *mode.falling):
            decoded[shift.token_id] = shift.change
        torch.testing.assert_close(decoded, slope, rtol=1e-6, atol=1e-9)
        assert [item.change for item in mode.rising] == sorted((item.change for item in mode.rising), reverse=True)
        assert mode.rising[0].token in mode.contrast


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_actual_shifts_are_those_of_a_replaced_embedding(tiny, baseline):
    found = ls.inspect_modes(tiny, IDS, rank=2, baseline=baseline, top_tokens=D_VOCAB)
    embeddings = site_activation(tiny, IDS, "hook_embed")
    before = distribution(tiny, state_of(tiny, IDS))
    target = (
        torch.zeros_like(embeddings) if baseline == "zero" else embeddings.mean(0, keepdim=True).expand_as(embeddings)
    )
    for index, removal in enumerate(found.replacements):
        changed = embeddings.clone()
        changed[index] = target[index]
        after = distribution(tiny, final_state(tiny, changed, IDS))
        actual = torch.zeros(D_VOCAB, dtype=torch.float64)
        for shift in removal.actual:
            actual[shift.token_id] = shift.change
        torch.testing.assert_close(actual, after - before, rtol=1e-9, atol=1e-12)
        assert removal.actual_nats == pytest.approx(float(kl(before, after)), rel=1e-9, abs=1e-12)


def test_with_every_mode_predicted_shifts_are_the_first_order_change(tiny):
    found = ls.inspect_modes(tiny, IDS, rank=tiny.cfg.d_model, top_tokens=D_VOCAB)
    embeddings = site_activation(tiny, IDS, "hook_embed")
    step = 1e-6
    for index in (0, len(IDS) - 1):
        nudge = torch.zeros_like(embeddings)
        nudge[index] = embeddings.mean(0) - embeddings[index]
        ends = [distribution(tiny, final_state(tiny, embeddings + sign * step * nudge, IDS)) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        predicted = torch.zeros(D_VOCAB, dtype=torch.float64)
        for shift in found.replacements[index].predicted:
            predicted[shift.token_id] = shift.change
        torch.testing.assert_close(predicted, slope, rtol=1e-5, atol=1e-8)


def test_the_modes_of_an_answer_are_those_of_its_predictions(tiny):
    """Σ_n Σ_i λ_n,i a_n,i,t² over the modes of each prediction is the answer's divergence along all of them."""
    answer = [5, 11, 2]
    whole = ls.attribute(tiny, IDS, ls.Fisher(2), answer=answer, readout=ls.Dot("zero"))
    nats = torch.zeros(len(IDS), dtype=torch.float64)
    for done in range(len(answer)):
        modes = ls.inspect_modes(tiny, IDS + answer, rank=2, baseline="zero", position=len(IDS) - 1 + done)
        nats += torch.tensor([item.predicted_nats for item in modes.replacements[: len(IDS)]], dtype=torch.float64)
    torch.testing.assert_close(nats, 0.5 * whole.scores, rtol=1e-6, atol=1e-12)


def test_amounts_are_signed_as_the_modes_are_decoded(tiny):
    """Δp = Σ_i a_i √λ_i · (the decoded contrast of mode i), whatever the sign of the eigenvector."""
    found = ls.inspect_modes(tiny, IDS, rank=3, top_tokens=D_VOCAB)
    contrasts = torch.zeros(3, D_VOCAB, dtype=torch.float64)
    for row, mode in zip(contrasts, found.modes, strict=True):
        for shift in (*mode.rising, *mode.falling):
            row[shift.token_id] = shift.change * mode.eigenvalue**0.5
    for removal in found.replacements:
        told = torch.zeros(D_VOCAB, dtype=torch.float64)
        for shift in removal.predicted:
            told[shift.token_id] = shift.change
        amounts = torch.tensor(removal.amounts, dtype=torch.float64)
        torch.testing.assert_close(amounts @ contrasts, told, rtol=1e-9, atol=1e-12)


def test_a_removal_is_told_in_words(tiny):
    found = ls.inspect_modes(tiny, IDS, rank=1)
    removal = found.replacements[found.top(1)[0][0]]
    falls = min(removal.actual, key=lambda shift: shift.change)
    rises = max(removal.actual, key=lambda shift: shift.change)
    told = f"{rises.token!r} {percentage_points(rises.change)}, {falls.token!r} {percentage_points(falls.change)}"
    assert removal.sentence().startswith(f"Replacing {removal.token!r}: {told} (predicted ")
    without = replace(removal, predicted=[ProbabilityChange(falls.token_id, falls.token, -0.25)])
    assert without.sentence().endswith("(predicted under 25.0 pp, −25.0 pp)")
    assert replace(removal, actual=[]).sentence() == f"Replacing {removal.token!r} barely moves the prediction"
    assert -1 - 1e-9 <= removal.agreement <= 1 + 1e-9
    assert "ModeInspection" in repr(found)


def test_another_baseline_is_refused(tiny):
    with pytest.raises(ReadoutError, match="zero"):
        ls.inspect_modes(tiny, IDS, baseline="pad")


def test_a_mode_below_the_solvers_error_is_not_decoded(tiny, monkeypatch):
    plain = ls.inspect_modes(tiny, IDS, rank=3)
    assert all(mode.resolved and mode.rising for mode in plain.modes) and not plain.warnings
    values = [mode.eigenvalue for mode in plain.modes]
    leading = PredictiveGeometry.leading
    error = 0.5 * (values[1] + values[2]) / values[0]
    monkeypatch.setattr(PredictiveGeometry, "leading", lambda self, rank: replace(leading(self, rank), residual=error))
    found = ls.inspect_modes(tiny, IDS, rank=3)
    assert [mode.resolved for mode in found.modes] == [True, True, False]
    last = found.modes[2]
    assert last.rising == last.falling == [] and last.contrast == "too small to be resolved"
    assert any(warning.startswith("mode 3 of 3") for warning in found.warnings)
    assert "Too small to be resolved, so not decoded." in found.to_html()


def test_changes_of_a_confident_prediction_keep_their_digits_in_float32():
    """One token has all but 1e-9 of the probability: its change is lost in a difference of float32 numbers."""
    exact, rounded = learned_positions_with_bU(), learned_positions_with_bU()
    logits = logits_from_final_state(exact, state_of(exact, IDS))
    top = int(logits.argmax())
    for model in (exact, rounded):
        model.unembed.b_U.data[top] += 22 + float(logits.logsumexp(-1) - logits[top])
    expected = ls.inspect_modes(exact, IDS, rank=2, top_tokens=D_VOCAB).replacements
    found = ls.inspect_modes(rounded.to(torch.float32), IDS, rank=2, top_tokens=D_VOCAB).replacements
    for one, other in zip(found, expected, strict=True):
        for shifts, literal in ((one.actual, other.actual), (one.predicted, other.predicted)):
            own, true = ({shift.token_id: shift.change for shift in part} for part in (shifts, literal))
            assert 0 < abs(true[top]) < 1e-7
            assert own == pytest.approx(true, rel=1e-2, abs=1e-3 * abs(true[top]))
