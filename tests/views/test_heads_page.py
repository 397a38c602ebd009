"""Head inspections as a page: every number where it belongs, links that lead somewhere, sizes, hostile text, words."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS, fake_attribution
from fake_results import fake_heads, fake_matrix, fake_modes
from html_document import Document
from induction_circuit import ANSWER, PROMPT, SOURCE, induction_circuit

import lens_scopes as ls
from lens_scopes.results.heads import AblationEffect
from lens_scopes.views import attribution_page, page_of, to_html
from lens_scopes.views.page.attention import MOST_TOKENS_OF_HEADS
from lens_scopes.views.page.circuitsvis import Strips
from lens_scopes.views.page.heads import OPEN
from lens_scopes.views.page.heat_table import cell_class
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.axis import Axis, axis_of, named_points
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.heads import head_lines
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import visible


def section(result: Any, key: str) -> Any:
    (found,) = [part for part in page_of(result).sections if part.key == key]
    return found


def drawn(script: str) -> Any:
    """The properties in a drawing statement, which are JSON but for NaN."""
    return json.loads(re.search(r'draw\("[^"]*","[^"]*",(.*)\)\);$', script).group(1))  # type: ignore[union-attr]


def test_the_map_has_every_head_and_mlp_on_its_scale() -> None:
    heads = fake_heads()
    html = section(heads, "heads").html
    flat = heads.effect.flatten().tolist()
    scale, mlp_scale = scale_of(flat, [False] * 72), scale_of(heads.mlp_effect.tolist(), [False] * 18)
    for layer, row in enumerate(heads.effect.tolist()):
        for head, value in enumerate(row):
            name, about = f"L{layer}H{head}", f"L{layer}H{head} · {number(value)}"
            cell = f'<td class="{cell_class(value, False, scale)}" title="{about}"><a href="#head-{name.lower()}"'
            assert f'{cell} aria-label="{about}">{short_number(value)}</a>' in html
    for layer, value in enumerate(heads.mlp_effect.tolist()):
        css = cell_class(value, False, mlp_scale)
        assert f'<td class="apart {css}" title="L{layer} MLP · {number(value)}"><span>{short_number(value)}<' in html
    assert "n20" in html and f"{number(2.5)} = largest magnitude of all heads" in html


def test_attention_only_models_have_no_mlp_column() -> None:
    html = section(fake_heads(mlps=False), "heads").html
    assert "MLP" not in html.replace("a head or an MLP", "")


@pytest.mark.parametrize("result", [fake_heads(), fake_matrix(), fake_modes()])
def test_every_link_leads_to_one_element_of_the_page(result: Any) -> None:
    for html in (
        to_html(result),
        attribution_page(fake_attribution(), fake_heads(), fake_matrix(), fake_modes()).to_html(),
    ):
        document = Document(html)
        ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        links = [a["href"] for name, a in document.tags if name == "a"]
        assert links and {str(link).removeprefix("#") for link in links} <= set(ids)


def test_layer_names_lead_to_the_heads_of_their_layer() -> None:
    html = attribution_page(fake_attribution(), heads=fake_heads()).to_html()
    assert '<a href="#heads-l7">L7</a>' in html and '<tr id="heads-l7">' in html
    assert "heads-l7" not in to_html(fake_attribution())


def test_strips_hold_the_parts_by_source_strongest_head_first() -> None:
    heads = fake_heads()
    part = section(heads, "head-strips")
    (strips,) = part.views
    order = [line.key for line in head_lines(heads)]
    assert order[0] == "head-l13h1" and list(strips.rows) == order
    for layer in range(18):
        for head in range(4):
            key = f"head-l{layer}h{head}"
            sources = heads.by_source[layer, head]
            assert strips.rows[key] == pytest.approx(sources.tolist(), rel=5e-3)
            assert strips.bounds[key] == pytest.approx(float(sources[1:].abs().max()))
    assert strips.unscaled == [0]
    assert '"head-l13h1":[2.0,[' in strips.script
    folds = re.findall(r'<details class="fold" id="([^"]*)"( open)?>', part.html)
    assert [key for key, _ in folds] == order
    assert [bool(is_open) for _, is_open in folds] == [i < OPEN for i in range(72)]
    first = part.html[part.html.index('id="head-l13h1"') :]
    assert "<em>induction head</em> (72.0% of its attention)" in first[:400]
    assert f"predicted {number(-2.5)} · actual {number(-1.99)} · direct {number(-1.25)}" in first[:400]
    assert re.search(r"Carries most from <bdi><i>␣</i>Sofa</bdi> <small>-2.000</small>", first[:600])


def test_a_real_circuit_is_told_on_the_page() -> None:
    found = ls.inspect_heads(induction_circuit(), PROMPT, ls.Semantic(ANSWER), baseline="zero")
    part = section(found, "head-strips")
    fold = part.html[part.html.index('id="head-l1h1"') :][:700]
    assert "<em>induction head</em>" in fold
    assert re.search(rf"Carries most from <bdi>{re.escape(visible(found.tokens[SOURCE]))}</bdi>", fold)
    looks = section(found, "attention").html
    edge = found.pattern_gradients["L1H1"]
    dest, src = divmod(int(edge.abs().argmax()), len(PROMPT))
    assert (dest, src) == (len(PROMPT) - 1, SOURCE)
    assert f"<small>{number(float(edge[dest, src]))}</small>" in looks


def test_models_with_many_heads_keep_the_page_light_and_say_so() -> None:
    tokens = ["<bos>", *[f" word{i}" for i in range(499)]]
    heads = fake_heads(tokens, n_layers=32, n_heads=32)
    html = to_html(heads)
    kept = 40_000 // 500
    assert f"{1024 - kept} weaker heads have no strip" in html
    assert html.count('class="fold"') == kept
    assert len(re.findall(r'<td class="[np]\d+" title="[^"]*"><a ', html)) == kept
    assert len(re.findall(r'<td class="[np]\d+" title="[^"]*"><span>', html)) == 1024 - kept
    assert len(html) < 2_500_000


def test_charts_hold_the_last_tokens_of_the_patterns() -> None:
    tokens = ["<bos>", *[f" word{i}" for i in range(99)]]
    heads = fake_heads(tokens)
    part = section(heads, "attention")
    patterns, edges = (drawn(view.script) for view in part.views)
    assert f"The last {MOST_TOKENS_OF_HEADS} of 100 tokens are drawn" in part.html
    assert patterns["attentionHeadNames"] == list(heads.patterns)
    assert patterns["tokens"] == [visible(token) for token in tokens[-64:]]
    for shown, pattern in zip(patterns["attention"], heads.patterns.values(), strict=True):
        last = pattern[-64:, -64:].tolist()
        for dest in (0, 20, 63):
            assert len(shown[dest]) == dest + 1
            expected = [value if value >= 0.005 else 0 for value in last[dest][: dest + 1]]
            assert shown[dest] == pytest.approx(expected, rel=5e-3)
    assert patterns["maxValue"] == 1
    largest = max(float(edge[:, 1:].abs().max()) for edge in heads.pattern_gradients.values())
    assert edges["maxValue"] == -edges["minValue"] == pytest.approx(largest)


def test_special_columns_of_pattern_gradients_are_blank_and_special_edges_unlisted() -> None:
    heads = fake_heads()
    for edge in heads.pattern_gradients.values():
        edge[:, 0] = 1000
    part = section(heads, "attention")
    edges = drawn(part.views[1].script)
    assert all(row[0] == 0 for head in edges["attention"] for row in head)
    assert edges["maxValue"] < 10
    assert "1000" not in part.html


def test_many_pattern_heads_are_cut_and_said_so() -> None:
    part = section(fake_heads(patterns=30), "attention")
    assert "The 12 strongest of 30 heads are drawn." in part.html
    assert len(drawn(part.views[0].script)["attention"]) == 12
    long = section(fake_heads([f" w{i}" for i in range(80)], patterns=30), "attention")
    assert "The 6 strongest of 30 heads are drawn." in long.html
    assert long.html.count('<th scope="row">') == 30


def test_the_ablation_table_has_both_columns_as_numbers_and_bars() -> None:
    heads = fake_heads()
    html = section(heads, "ablation").html
    assert "Ablated: all 90 components. Predicted and actual changes rank alike with Spearman’s ρ = 0.91." in html
    assert "set to its mean baseline" in html
    axis = axis_of([value for item in heads.ablations for value in (item.predicted, item.actual)])
    rows = re.findall(r'<tr><td class="component" data-value="(L\d+(?:H\d| MLP))">(.*?)</tr>', html)
    assert [name for name, _ in rows] == [item.name for item in heads.ablations]
    for (_, row), item in zip(rows, heads.ablations, strict=True):
        assert re.findall(r'data-value="([^"]*)"', row) == [repr(item.predicted), repr(item.actual)]
        assert f">{number(item.predicted)}<" in row and f">{number(item.actual)}<" in row
        widths = [float(width) for width in re.findall(r"width:([\d.]+)%", row)]
        assert widths == pytest.approx([50 * abs(axis.share(v)) for v in (item.predicted, item.actual)], abs=0.01)
        assert row.count("bar negative") == (item.predicted < 0) + (item.actual < 0)
    assert html.count("<circle") == 72 and html.count("<rect") == 18


def test_points_lie_on_the_diagonal_where_prediction_and_ablation_agree() -> None:
    same = [AblationEffect(0, 0, 2.0, 2.0), AblationEffect(0, 1, -1.0, -1.0), AblationEffect(1, None, 0.5, 0.5)]
    html = section(fake_heads(ablations=same), "ablation").html
    start, side, top, left, _ = map(
        float,
        re.search(r'"agree" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)()', html).group(1, 2, 4, 3, 1),  # type: ignore[union-attr]
    )
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', html):
        along = (float(x) - start) / (left - start)
        assert (side - float(y)) / (side - top) == pytest.approx(along, abs=1e-3)
    zero = axis_of([2.0, -1.0]).place(0.0)
    assert zero == 0.5


def test_unchecked_predictions_are_said_to_be_so() -> None:
    html = to_html(fake_heads(ablations=[], spearman=None))
    assert "ablation" not in [part.key for part in page_of(fake_heads(ablations=[])).sections]
    assert "not ablated" in html
    few = section(fake_heads(ablations=[AblationEffect(0, 0, 1.0, 1.0)], spearman=None), "ablation").html
    assert "Ablated: the 1 strongest of 90 components. A rank correlation takes at least three" in few


def test_zero_and_broken_changes_are_said_in_words() -> None:
    zero = torch.zeros(18, 4)
    text = to_html(
        fake_heads(effect=zero, by_source=torch.zeros(18, 4, 18), direct_effect=zero, mlp_effect=torch.zeros(18))
    )
    assert "The change of every head is exactly zero" in text
    assert "No colour: no score of all heads differs from zero" in text
    plain = fake_heads()
    change, sources = plain.effect.clone(), plain.by_source.clone()
    change[3, 1], sources[13, 1, 4] = math.nan, math.inf
    edges = {name: edge.clone() for name, edge in plain.pattern_gradients.items()}
    next(iter(edges.values()))[5, 3] = math.nan
    ablations = [AblationEffect(3, 1, math.nan, -math.inf), *plain.ablations[:5]]
    broken = fake_heads(effect=change, by_source=sources, pattern_gradients=edges, ablations=ablations)
    html = to_html(broken)
    assert "1 of 72 heads has a change that is not finite" in html
    assert '<td class="x" title="L3H1 · not a number">' in html
    assert "Not finite, without colour: 1 of these numbers." in html
    assert "1 of 6 ablations gave a change that is not finite." in html
    assert [line.name for line in head_lines(broken)][-1] == "L3H1"
    assert section(broken, "ablation").html.count("<circle") + section(broken, "ablation").html.count("<rect") == 5
    assert "NaN" not in "".join(view.script for part in page_of(broken).sections for view in part.views)


def test_divergences_are_told_without_signs() -> None:
    html = to_html(fake_heads(scope="fisher", objective="Fisher(rank=1)", effect=torch.rand(18, 4)))
    assert "Kullback–Leibler divergence in nats" in html and "It has no sign" in html
    assert "Below zero" not in html


def test_the_words_for_each_kind_of_output() -> None:
    assert "the log-probability of the target token" in to_html(fake_heads(scope="logprob"))
    assert "the difference between the two logits" in to_html(fake_heads(scope="logit-diff"))


def test_hostile_text_stays_text() -> None:
    evil = "<img src=x onerror=window.executed=1>"
    plain = Document(to_html(fake_heads(warnings=["x"])))
    heads = fake_heads(
        HOSTILE_TOKENS,
        warnings=[evil],
        objective=f"Semantic({evil!r})",
        baseline=evil,  # type: ignore[arg-type]
        contract={evil: "<img src=x onerror=window.executed=1>"},
        settings={"</dl>": ["</dl>"]},
        model={"name": evil},
        scope=evil,
    )
    document = Document(to_html(heads))
    assert {name for name, _ in document.tags} <= {name for name, _ in plain.tags}
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]
    assert document.open == []
    scripts = [text for tag, text in document.texts if tag == "script"]
    assert len(scripts) == 3 and not any(re.search("</script|<!--", script, re.IGNORECASE) for script in scripts)


def test_contract_and_warnings_are_there() -> None:
    html = to_html(fake_heads(warnings=["trust the ablations, not the gradients, here."]))
    assert "trust the ablations, not the gradients, here." in html
    assert "all other components except as they respond" in html


def test_one_page_holds_every_result_and_one_bundle() -> None:
    whole = attribution_page(fake_attribution(), heads=fake_heads(), matrix=fake_matrix(), modes=fake_modes())
    assert [part.key for part in whole.sections] == [
        *("tokens", "prediction", "layers", "heads", "head-strips", "attention", "ablation"),
        *("matrix", "predictions", "spans", "modes", "replacements"),
        *("scores", "contract", "heads-contract", "matrix-contract", "modes-contract", "details"),
    ]
    html = whole.to_html()
    assert html.count("var CircuitsVis=") == 1
    assert "all other components except as they respond" in html
    assert "Mind the difference" not in html


def test_results_of_other_prompts_or_models_are_pointed_out() -> None:
    html = attribution_page(fake_attribution(), heads=fake_heads([*GERMAN_TOKENS, " red"])).to_html()
    assert "This part is about another prompt or position: German: Der Hund" in html
    html = attribution_page(
        fake_attribution(), matrix=fake_matrix([*GERMAN_TOKENS, " sofa"], model={"name": "gpt2"})
    ).to_html()
    assert "another prompt" not in html and "This part is about another model: gpt2" in html


def test_results_write_their_page(tmp_path: Path) -> None:
    for result in (fake_heads(), fake_matrix(), fake_modes()):
        path = tmp_path / f"{type(result).__name__}.html"
        assert result.to_html(path) == path.read_text(encoding="utf-8") == to_html(result)
        assert result._repr_html_().startswith('<iframe sandbox="allow-scripts"')


def test_strip_names_are_checked() -> None:
    with pytest.raises(ValueError, match="strip id"):
        Strips('x"><b>', [], {}, {}, ("red", "blue"))


def test_one_outlier_makes_a_square_root_axis() -> None:
    assert not axis_of([1.0, -2.0, 3.0, 4.0, -5.0]).square_root
    axis = axis_of([*[0.1 * i for i in range(20)], -100.0])
    assert axis.square_root and axis.low == -axis.high == pytest.approx(-106.0)
    assert axis.place(-106.0) == 0 and axis.place(106.0) == 1 and axis.place(26.5) == pytest.approx(0.75)
    assert axis.share(-26.5) == pytest.approx(-0.5)
    assert axis.ticks() == [-50.0, -10.0, 0.0, 10.0, 50.0]
    assert axis_of([0.0, 0.3]).ticks() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert axis_of([]).place(0.0) == 0


def test_names_of_points_hide_nothing() -> None:
    axis = Axis(0.0, 1.0, False)
    assert named_points(axis, [(0.2, 0.9)]) == [(0, 1)]
    assert named_points(axis, [(0.99, 0.5)]) == [(0, -1)]
    crowd = [(0.5, 0.5), (0.6, 0.5), (0.4, 0.5)]
    assert named_points(axis, crowd) == [(1, 1), (2, -1)]
