"""Head inspections as a page: every number where it belongs, links that lead somewhere, sizes, hostile text, words."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS, fake_attribution
from fake_results import fake_heads, fake_matrix, fake_modes
from html_document import Document
from induction_circuit import ANSWER, PROMPT, SOURCE, induction_circuit
from page_blocks import blocks, mappings, plain, section, table, written

import lens_scopes as ls
from lens_scopes.results.heads import AblationEffect
from lens_scopes.views import attribution_page, page_of, to_html
from lens_scopes.views.charts import Axis, axis_of, label_points
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.changes import head_lines
from lens_scopes.views.words.pages.heads import MAX_TOKENS_OF_HEADS, OPEN
from lens_scopes.views.words.token_text import printable_token


def test_the_map_has_every_head_and_mlp_with_its_link() -> None:
    heads = fake_heads()
    part = section(heads, "heads")
    (drawn,) = blocks(part, "map")
    data = page_of(heads).content()["parts"][0]["data"]
    assert drawn["values"] == {"at": ["effect"]} and drawn["apart"]["values"] == {"at": ["mlp_effect"]}
    assert torch.tensor(data["effect"]).allclose(heads.effect.float())
    assert torch.tensor(data["mlp_effect"]).allclose(heads.mlp_effect.float())
    assert drawn["cell_links"] == [[f"head-l{layer}h{head}" for head in range(4)] for layer in range(18)]
    scales = [block["scale"] for block in blocks(part, "legend")]
    assert [scale["bound"] for scale in scales] == [2.5, float(heads.mlp_effect.abs().max())]


def test_the_page_says_by_which_rules_mlps_are_predicted() -> None:
    heads = fake_heads()
    assert "An MLP’s is" not in written(section(heads, "heads"))
    ruled = replace(heads, settings={**heads.settings, "mlp_rules": "rules relp"})
    assert "one by another backward pass (rules relp)." in written(section(ruled, "heads"))


def test_attention_only_models_have_no_mlp_column() -> None:
    (drawn,) = blocks(section(fake_heads(mlps=False), "heads"), "map")
    assert "apart" not in drawn


def test_every_link_leads_to_one_element_of_the_page() -> None:
    whole = attribution_page(fake_attribution(), fake_heads(), fake_matrix(), fake_modes())
    for page in (whole, page_of(fake_heads()), page_of(fake_matrix()), page_of(fake_modes())):
        every = list(mappings([part.blocks for part in page.sections]))
        ids = [part.key for part in page.sections]
        ids += [block[name] for block in every for name in ("key", "id") if name in block and "noun" not in block]
        ids += [name for block in every for name in block.get("row_ids", [])]
        assert len(ids) == len(set(ids))
        links = {block["link"] for block in every if block.get("link")}
        links |= {link for block in every for link in block.get("row_links", [])}
        links |= {link for block in every for row in block.get("cell_links", []) for link in row if link}
        assert links <= set(ids)


def test_layer_names_lead_to_the_heads_of_their_layer() -> None:
    page = attribution_page(fake_attribution(), fake_heads())
    (layers,) = [part for part in page.sections if part.key == "layers"]
    assert blocks(layers, "map")[0]["row_links"] == [f"heads-l{layer}" for layer in range(18)]
    assert "row_links" not in blocks(section(fake_attribution(), "layers"), "map")[0]


def test_strips_hold_the_parts_by_source_strongest_head_first() -> None:
    heads = fake_heads()
    (strips,) = blocks(section(heads, "head-strips"), "strips")
    data = page_of(heads).content()["parts"][0]["data"]
    assert strips["items"][0]["key"] == "head-l13h1" and strips["open"] == OPEN
    for item, line in zip(strips["items"], head_lines(heads), strict=True):
        assert item["key"] == line.key
        assert data["by_source"][line.layer][line.head] == pytest.approx(line.sources)
    first = strips["items"][0]
    assert plain(first["summary"]).startswith("L13H1 · induction head (72.0% of its attention)")
    assert f"predicted {number(-2.5)} · actual {number(-1.99)} · direct {number(-1.25)}" in plain(first["summary"])
    assert written(first["blocks"]).startswith("Carries most from ␣Sofa -2.000")


def test_a_real_circuit_is_told_on_the_page() -> None:
    found = ls.inspect_heads(induction_circuit(), PROMPT, ls.Semantic(ANSWER), baseline="zero")
    (strips,) = blocks(section(found, "head-strips"), "strips")
    (fold,) = [item for item in strips["items"] if item["key"] == "head-l1h1"]
    assert "induction head" in plain(fold["summary"])
    assert written(fold["blocks"]).startswith(f"Carries most from {printable_token(found.tokens[SOURCE])} ")
    edge = found.pattern_gradients["L1H1"]
    dest, src = divmod(int(edge.abs().argmax()), len(PROMPT))
    assert (dest, src) == (len(PROMPT) - 1, SOURCE)
    assert number(float(edge[dest, src])) in written(section(found, "attention"))


def test_models_with_many_heads_keep_the_page_light_and_say_so() -> None:
    tokens = ["<bos>", *[f" word{i}" for i in range(499)]]
    heads = fake_heads(tokens, n_layers=32, n_heads=32)
    kept = 40_000 // 500
    assert f"{1024 - kept} weaker heads have no strip" in written(section(heads, "head-strips"))
    assert len(blocks(section(heads, "head-strips"), "strips")[0]["items"]) == kept
    (drawn,) = blocks(section(heads, "heads"), "map")
    assert sum(map(bool, sum(drawn["cell_links"], []))) == kept
    assert len(to_html(heads)) < 2_700_000


def test_charts_hold_the_last_tokens_of_the_patterns() -> None:
    tokens = ["<bos>", *[f" word{i}" for i in range(99)]]
    heads = fake_heads(tokens)
    part = section(heads, "attention")
    (charts,) = blocks(part, "attention")
    patterns, edges = charts["views"]
    assert f"The last {MAX_TOKENS_OF_HEADS} of 100 tokens are drawn" in written(part)
    assert charts["heads"] == list(heads.patterns) and charts["tokens"] == MAX_TOKENS_OF_HEADS
    most = max(float(pattern[:, 1:].max()) for pattern in heads.patterns.values())
    for shown, pattern in zip(patterns["matrices"], heads.patterns.values(), strict=True):
        last = pattern[-64:, -64:].tolist()
        for dest in (0, 20, 63):
            assert len(shown[dest]) == dest + 1
            expected = [value if value >= 0.005 * most else 0 for value in last[dest][: dest + 1]]
            assert shown[dest] == pytest.approx(expected, rel=5e-3)
    largest = max(float(edge[:, 1:].abs().max()) for edge in heads.pattern_gradients.values())
    assert patterns["bound"] == pytest.approx(most) and edges["bound"] == pytest.approx(largest)


def test_special_columns_of_both_charts_are_blank_and_special_edges_unlisted() -> None:
    heads = fake_heads()
    for edge in heads.pattern_gradients.values():
        edge[:, 0] = 1000
    part = section(heads, "attention")
    patterns, edges = blocks(part, "attention")[0]["views"]
    assert all(row[0] == 0 for view in (patterns, edges) for head in view["matrices"] for row in head)
    assert edges["bound"] < 10
    assert "1000" not in written(part)


def test_many_pattern_heads_are_cut_and_said_so() -> None:
    part = section(fake_heads(patterns=30), "attention")
    assert "The 12 strongest of 30 heads are drawn." in written(part)
    assert len(blocks(part, "attention")[0]["views"][0]["matrices"]) == 12
    long = section(fake_heads([f" w{i}" for i in range(80)], patterns=30), "attention")
    assert "The 6 strongest of 30 heads are drawn." in written(long)
    assert len(table(long, "What stands out in the charts")["rows"]) == 30


def test_the_ablation_table_has_both_columns_as_numbers_and_bars() -> None:
    heads = fake_heads()
    part = section(heads, "ablation")
    said = written(part)
    assert "Ablated: all 90 components. Spearman’s ρ = 0.91 between predicted and actual changes." in said
    assert "set to its mean baseline" in said
    axis = axis_of([value for item in heads.ablations for value in (item.predicted, item.actual)])
    rows = table(part, "Predicted and actual changes")["rows"]
    for row, item in zip(rows, heads.ablations, strict=True):
        assert [row[0]["text"], row[1]["value"], row[3]["value"]] == [item.name, item.predicted, item.actual]
        assert [row[1]["text"], row[3]["text"]] == [number(item.predicted), number(item.actual)]
        assert [row[2]["bar"], row[4]["bar"]] == [axis.share(item.predicted), axis.share(item.actual)]


def test_both_axes_of_the_points_are_the_same() -> None:
    same = [AblationEffect(0, 0, 2.0, 2.0), AblationEffect(0, 1, -1.0, -1.0), AblationEffect(1, None, 0.5, 0.5)]
    (chart,) = blocks(section(fake_heads(ablations=same), "ablation"), "chart")
    assert {**chart["x"], "label": ""} == {**chart["y"], "label": ""} and chart["diagonal"]
    assert [(point["x"], point["y"]) for point in chart["points"]] == [(2.0, 2.0), (-1.0, -1.0), (0.5, 0.5)]


def test_unchecked_predictions_are_said_to_be_so() -> None:
    html = to_html(fake_heads(ablations=[], spearman=None))
    assert "ablation" not in [part.key for part in page_of(fake_heads(ablations=[])).sections]
    assert "not ablated" in html
    few = written(section(fake_heads(ablations=[AblationEffect(0, 0, 1.0, 1.0)], spearman=None), "ablation"))
    assert "Ablated: the 1 strongest of 90 components. A rank correlation takes at least three" in few


def test_zero_and_broken_changes_are_said_in_words() -> None:
    zero = torch.zeros(18, 4)
    text = to_html(
        fake_heads(effect=zero, by_source=torch.zeros(18, 4, 18), direct_effect=zero, mlp_effect=torch.zeros(18))
    )
    assert "The change of every head is exactly zero" in text
    plain = fake_heads()
    change, sources = plain.effect.clone(), plain.by_source.clone()
    change[3, 1], sources[13, 1, 4] = math.nan, math.inf
    edges = {name: edge.clone() for name, edge in plain.pattern_gradients.items()}
    next(iter(edges.values()))[5, 3] = math.nan
    ablations = [AblationEffect(3, 1, math.nan, -math.inf), *plain.ablations[:5]]
    broken = fake_heads(effect=change, by_source=sources, pattern_gradients=edges, ablations=ablations)
    html = to_html(broken)
    assert "1 of 72 heads has a change that is not finite" in html
    assert page_of(broken).content()["parts"][0]["data"]["effect"][3][1] is None
    assert "Not finite, without colour: 1 of these numbers." in html
    assert "1 of 6 ablations gave a change that is not finite." in html
    assert [line.name for line in head_lines(broken)][-1] == "L3H1"
    assert len(blocks(section(broken, "ablation"), "chart")[0]["points"]) == 5


def test_divergences_are_told_without_signs() -> None:
    heads = fake_heads(
        scope="fisher", objective="Fisher(rank=1)", effect=torch.rand(18, 4), settings={"divergence": True}
    )
    html = to_html(heads)
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
        *("tokens", "prediction", "scores", "layers", "heads", "head-strips", "attention", "ablation"),
        *("matrix", "matrix-predictions", "matrix-spans", "modes", "replacements", "contract", "details"),
    ]
    folded = [part.key for part in whole.sections if part.folded]
    assert folded == ["head-strips", "attention", "ablation", "matrix-predictions", "replacements"]
    html = whole.to_html()
    assert html.count("var CircuitsVis=") == 1
    assert "all other components except as they respond" in html
    assert "Mind the difference" not in html


def test_one_contract_names_what_the_other_results_claim_otherwise() -> None:
    heads = fake_heads()
    whole = attribution_page(fake_attribution(), heads=heads, matrix=fake_matrix())
    (contract,) = [part for part in whole.sections if part.key == "contract"]
    main, *_ = blocks(contract, "definitions")
    folds = [block for block in contract.blocks if block["type"] == "fold"]
    assert [name for name, _ in main["pairs"]] == list(fake_attribution().contract)
    assert plain(folds[0]["summary"]).startswith("The contract of the heads differs in: ")
    otherwise = {name: text for name, text in heads.contract.items() if fake_attribution().contract[name] != text}
    assert dict(folds[0]["blocks"][0]["pairs"]) == otherwise and otherwise
    assert plain(folds[1]["summary"]) == "The contract of source × target is the same"


def test_a_column_of_types_is_there_where_heads_have_types() -> None:
    names = [name for name, _ in table(section(fake_heads(), "heads"), "The strongest heads")["columns"]]
    assert names[1] == "type"
    bare = replace(fake_heads(), head_types={})
    strongest = table(section(bare, "heads"), "The strongest heads")
    assert [name for name, _ in strongest["columns"]] == [name for name in names if name != "type"]
    assert {len(row) for row in strongest["rows"]} == {len(names) - 1}


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
        assert result.to_html(path) == path
        assert path.read_text(encoding="utf-8") == to_html(result) == result.to_html()
        assert result._repr_html_().startswith('<iframe sandbox="allow-scripts"')


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
    assert label_points(axis, [(0.2, 0.9)]) == [(0, 1)]
    assert label_points(axis, [(0.99, 0.5)]) == [(0, -1)]
    crowd = [(0.5, 0.5), (0.6, 0.5), (0.4, 0.5)]
    assert label_points(axis, crowd) == [(1, 1), (2, -1)]
