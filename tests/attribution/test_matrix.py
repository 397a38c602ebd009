"""Source × target: every row is the single call, whatever the blocks."""

import pytest
import torch

import lens_scopes as ls
from lens_scopes.attribution import matrix
from lens_scopes.errors import ObjectiveError, PromptError

IDS = [3, 7, 1, 7, 4, 9, 2, 11, 5, 8, 1]


@pytest.mark.parametrize("objective", [ls.Semantic(), ls.Temperature(), ls.Fisher(2)], ids=lambda item: item.scope)
@pytest.mark.parametrize("block", [1, 4, 100])
def test_rows_are_single_calls(tiny, objective, block, monkeypatch):
    monkeypatch.setattr(matrix, "_BLOCK", block)
    found = ls.attribute_all(tiny, IDS, objective)
    assert found.matrix.shape == (len(IDS), len(IDS)) and not found.matrix.triu(1).any()
    for dest in range(len(IDS)):
        single = ls.attribute(tiny, IDS, objective, position=dest)
        torch.testing.assert_close(found.matrix[dest, : dest + 1], single.scores, rtol=1e-9, atol=1e-13)
        assert found.predicted[dest].token_id == single.prediction.top[0].token_id
        if single.target is not None:
            assert found.targets[dest].token_id == single.target.token_id


def test_targets_are_the_tokens_that_follow(tiny):
    found = ls.attribute_all(tiny, IDS, ls.LogProb())
    assert [item.token_id for item in found.targets[:-1]] == IDS[1:]
    assert found.targets[-1].token_id == found.predicted[-1].token_id


def test_one_target_for_all_rows(tiny):
    """By option and in a Spec alike; refused where the objective names its own token."""
    by_option = ls.attribute_all(tiny, IDS, ls.LogProb(), target=9)
    in_spec = ls.attribute_all(tiny, IDS, ls.Spec(ls.LogProb(), target=9))
    assert torch.equal(by_option.matrix, in_spec.matrix)
    assert {item.token_id for item in by_option.targets} == {9}
    for dest in (2, len(IDS) - 1):
        single = ls.attribute(tiny, IDS, ls.LogProb(), position=dest, target=9)
        torch.testing.assert_close(by_option.matrix[dest, : dest + 1], single.scores, rtol=1e-9, atol=1e-13)
    with pytest.raises(ObjectiveError, match="target"):
        ls.attribute_all(tiny, IDS, ls.Semantic(5), target=9)


def test_generated_tokens_are_the_models_own_and_their_predictions_are_explained(tiny):
    found = ls.attribute_all(tiny, IDS[:4], ls.Semantic(), generate=3)
    assert found.generated == 3 and found.token_ids[:4] == IDS[:4] and len(found.token_ids) == 7
    assert found.destinations == [3, 4, 5]
    ids = list(IDS[:4])
    for made in found.token_ids[4:]:
        with torch.no_grad():
            assert made == int(tiny(torch.tensor([ids]))[0, -1].argmax())
        ids.append(made)
    assert [item.token_id for item in found.targets] == found.token_ids[4:]


def test_span_totals_sum_sources_and_average_predictions(tiny):
    found = ls.attribute_all(tiny, IDS, ls.Temperature())
    spans = {"first": (0, 4), "last": (8, 11)}
    table = found.span_totals(spans)
    expected = found.matrix[7:10, 0:4].sum(1).mean()
    assert table.loc["last", "first"] == pytest.approx(float(expected))
    assert table.loc["first", "last"] == 0
    generated = ls.attribute_all(tiny, IDS[:4], generate=2)
    named = generated.span_totals({"prompt": (0, 4)})
    assert list(named.index) == ["prompt", "generated"]
    assert named.loc["generated", "prompt"] == pytest.approx(float(generated.matrix[:, 0:4].sum(1).mean()))
    assert "generated" in generated.span_totals().columns


def test_bad_spans_and_lengths_are_refused(tiny):
    found = ls.attribute_all(tiny, IDS[:3], ls.Temperature())
    with pytest.raises(PromptError, match="named spans"):
        found.span_totals()
    with pytest.raises(PromptError, match="outside"):
        found.span_totals({"x": (2, 9)})
    with pytest.raises(PromptError, match="context window"):
        ls.attribute_all(tiny, IDS, generate=tiny.cfg.n_ctx)
    with pytest.raises(PromptError, match="must be an integer from 0"):
        ls.attribute_all(tiny, IDS, generate=-1)


def test_tables_and_plain_values(tiny):
    found = ls.attribute_all(tiny, IDS, ls.Fisher())
    below = found.matrix.new_ones(found.matrix.shape).tril() > 0
    assert found.to_pandas()["score"].tolist() == found.matrix[below].tolist()
    assert found.to_dict()["matrix"][3][0] == pytest.approx(float(found.matrix[3, 0]))
    assert "11 destinations" in repr(found)


def test_each_row_measures_from_the_mean_of_its_own_prompt(tiny):
    found = ls.attribute_all(tiny, IDS, ls.LogProb(5), readout="dot-mean").matrix
    for position in range(len(IDS)):
        single = ls.attribute(tiny, IDS, ls.LogProb(5), readout="dot-mean", position=position).scores
        torch.testing.assert_close(found[position, : position + 1], single)
