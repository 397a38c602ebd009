"""The HTML page as text: what it contains, what is escaped, how sections and views are put together."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_results import fake_heads, fake_matrix, fake_modes
from html_document import Document
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.errors import FileError
from lens_scopes.views import Page, Section, attribution_page, frame_page, notebook_html, page_of, to_html
from lens_scopes.views.page import inline
from lens_scopes.views.page.inline import SCRIPTS, bundle, encode, join_modules, lean
from lens_scopes.views.words.attribution import number, percent
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import printable_token


@pytest.fixture(scope="module")
def hostile() -> str:
    attribution = fake_attribution(
        HOSTILE_TOKENS,
        warnings=["<script>window.executed=1</script>"],
        contract={"output explained": "<img src=x onerror=window.executed=1>"},
        model={"name": "<b>model</b>"},
        settings={"</dl>": {"deep": ["&amp;", 0.5]}},
        objective="Semantic('</h1>')",
        sites={"blocks.0.<hook>": torch.rand(len(HOSTILE_TOKENS)), "z": torch.rand(len(HOSTILE_TOKENS), 3)},
    )
    return to_html(attribution)


def test_only_the_tags_of_the_page_itself_are_there(hostile: str) -> None:
    plain = Document(to_html(fake_attribution(sites={"a": torch.rand(18), "z": torch.rand(18, 3)}, warnings=["x"])))
    assert {name for name, _ in Document(hostile).tags} <= {name for name, _ in plain.tags}
    assert not [name for _, attributes in Document(hostile).tags for name in attributes if name.startswith("on")]
    assert len(Document(hostile).named("script")) == 3


def test_every_element_is_closed(hostile: str) -> None:
    assert Document(hostile).open == []


def test_no_script_can_be_left_early(hostile: str) -> None:
    scripts = [text for tag, text in Document(hostile).texts if tag == "script"]
    assert len(scripts) == 3
    assert not any(re.search(r"</script|<!--", script, re.IGNORECASE) for script in scripts)
    assert not re.search("[<>&]", scripts[2])


def test_tokens_read_back_from_the_tables(hostile: str) -> None:
    body = hostile[hostile.index("Score of every token</caption>") : hostile.index("</main>")]
    read = [Document(cell).texts for cell in re.findall(r'<td class="token"><bdi>(.*?)</bdi>', body)]
    assert ["".join(text for _, text in pieces) for pieces in read] == [
        printable_token(token) for token in HOSTILE_TOKENS
    ]


def test_nothing_is_loaded_and_nothing_may_be(hostile: str) -> None:
    document = Document(hostile)
    policy = next(a["content"] for a in document.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:")
    assert all("src" not in attributes for _, attributes in document.tags)
    links = [a["href"] for name, a in document.tags if "href" in a]
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)
    assert "sourceMappingURL" not in hostile
    assert "url(" not in "".join(text for tag, text in document.texts if tag == "style")


def test_the_bundle_is_inlined_once_for_all_views() -> None:
    html = to_html(fake_attribution())
    assert html.count("var CircuitsVis=") == 1
    assert "CircuitsVis=" not in Page("bare").with_section(Section("a", "A", [])).to_html()


def test_the_same_attribution_gives_the_same_page() -> None:
    assert to_html(fake_attribution()) == to_html(fake_attribution())


def test_every_number_is_on_the_page() -> None:
    attribution = fake_attribution(standard_error=torch.linspace(0.01, 0.5, 18))
    html = to_html(attribution)
    assert attribution.layers is not None
    assert attribution.standard_error is not None
    for value in attribution.scores.tolist():
        assert f">{number(value)}</span>" in html
    for value in attribution.standard_error.tolist():
        assert f"± {number(value)}" in html
    for value in attribution.layers.flatten().tolist():
        assert f">{number(value)}<" in html
    for item in attribution.prediction.top:
        assert percent(item.probability) in html
    for key, text in attribution.contract.items():
        assert key in html
        assert escape(text).replace("&#x27;", "&#39;") in html


def test_sections_are_there_where_the_attribution_has_them() -> None:
    keys = [section.key for section in attribution_page(fake_attribution(n_layers=0)).sections]
    assert keys == ["tokens", "prediction", "scores", "contract", "details"]
    keys = [section.key for section in attribution_page(fake_attribution(sites={"z": torch.rand(18, 2)})).sections]
    assert keys == ["tokens", "prediction", "scores", "layers", "sites", "contract", "details"]


def test_heads_of_a_site_are_rows_of_their_own_table() -> None:
    values = torch.arange(36.0).reshape(18, 2)
    html = to_html(fake_attribution(n_layers=0, sites={"blocks.3.attn.hook_z": values}))
    rows = re.findall(r'<tr><th scope="row">(H\d)(.*?)(?=<tr>|</tbody>)', html, re.DOTALL)
    assert [name for name, _ in rows] == ["H0", "H1"]
    assert rows[0][1].strip().endswith(">34.00") and rows[1][1].strip().endswith(">35.00")


def test_no_target_and_no_text() -> None:
    html = to_html(fake_attribution(target=None, text=None, scope="fisher", objective="Fisher(rank=4)"))
    assert '"target":true' not in html and '"title":"most probable next token"' in html
    assert "½ δᵀFδ" in html


def test_zero_and_broken_scores_are_said_in_words() -> None:
    assert "Every score is exactly zero" in to_html(fake_attribution(scores=[0.0] * 18))
    html = to_html(fake_attribution(scores=[1.0, math.nan, math.inf] + [1.0] * 15))
    assert "2 of 18 scores are not finite" in html
    assert "not a number" in html
    assert "infinite" in html


def test_sections_go_where_they_are_put() -> None:
    start = Page("t").with_section(Section("a", "A", [])).with_section(Section("c", "C", []))
    both = start.with_section(Section("b", "B", []), before="c")
    assert [section.key for section in both.sections] == ["a", "b", "c"]
    assert len(start.sections) == 2
    with pytest.raises(ValueError, match="no section 'x' on this page, which has a, b, c"):
        both.with_section(Section("d", "D", []), before="x")


def test_keys_of_sections_are_unique() -> None:
    with pytest.raises(ValueError, match="two sections of this page have the key 'a'"):
        Page("t", sections=(Section("a", "A", []), Section("a", "A", []))).to_html()


def test_data_survives_encoding() -> None:
    data = {"tokens": ["</script>", "&amp;", "\u2028", "é😀", "\ud800"], "values": [0.5, None]}
    text = encode(data)
    assert not re.search("[<>&]", text)
    assert text.isascii()
    assert json.loads(text) == data
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode([math.nan])


def test_modules_are_joined_in_the_order_of_their_imports(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "page.js").write_text('import { a, b } from "./far/one.js";\nexport const c = 1;\n', encoding="utf-8")
    (tmp_path / "far/one.js").write_text(
        'import { d } from "../two.js";\nexport const a = "</script>";\nexport class b {}\n', encoding="utf-8"
    )
    (tmp_path / "two.js").write_text("export const d = 4;\n", encoding="utf-8")
    script = join_modules("page", tmp_path)
    order = ["const _two = ", "const _far_one = ", "const { d } = _two;", "const { a, b } = _far_one;", "return { c };"]
    assert sorted(order, key=script.index) == order
    assert "</script" not in script
    (tmp_path / "bad.js").write_text("export default 1;\n", encoding="utf-8")
    with pytest.raises(FileError, match=r"bad\.js imports or exports in a way"):
        join_modules("bad", tmp_path)


def test_comments_and_indents_are_left_out_and_text_is_kept() -> None:
    source = "// one\n/** two\n * three */\nconst a = 1; // four\n\n  const b = 'http://x /* y */';\n/* z */\n.a{b:c}\n"
    assert lean(source) == "const a = 1; // four\nconst b = 'http://x /* y */';\n.a{b:c}\n"


def test_no_text_of_the_scripts_goes_over_several_lines() -> None:
    for path in SCRIPTS.rglob("*.js"):
        assert all(line.count("`") % 2 == 0 for line in path.read_text(encoding="utf-8").splitlines()), path.name


def test_a_missing_bundle_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline.importlib.util, "find_spec", lambda name: None)
    bundle.cache_clear()
    try:
        with pytest.raises(FileError, match="pip install circuitsvis"):
            bundle()
    finally:
        bundle.cache_clear()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0123, "0.012"), (3.4e-7, "3.4e-7"), (123.4, "123"), (9999.0, "9999"), (12345.0, "1.2e4"), (-5.0, "-5")]
    + [(0.0, "0"), (math.nan, "nan"), (-math.inf, "-inf"), (1.0e-11, "1e-11"), (2e100, "2e100")],
)
def test_short_numbers(value: float, expected: str) -> None:
    assert short_number(value) == expected


def test_the_notebook_frame_holds_the_whole_page_and_is_closed() -> None:
    attribution = fake_attribution(HOSTILE_TOKENS)
    (frame,) = Document(notebook_html(attribution, full=True, height=500)).named("iframe")
    assert frame["srcdoc"] == to_html(attribution)
    assert frame["sandbox"] == "allow-scripts"
    assert frame["height"] == "500"
    assert "allow-same-origin" not in frame_page(Page("t"))


@pytest.mark.parametrize("make", [fake_attribution, fake_heads, fake_matrix, fake_modes])
def test_the_notebook_view_is_small_and_keeps_the_warnings(make: Callable[..., Any]) -> None:
    result = make()
    html = notebook_html(replace(result, warnings=["mind the gap"]))
    assert len(html) < 100_000
    assert "mind the gap" in html
    assert "var CircuitsVis=" not in html


def test_the_notebook_view_of_a_matrix_of_a_long_answer_is_small() -> None:
    matrix = ls.attribute_all(gpt2_like(n_ctx=128), [3, 7, 1, 7, 4] * 7, generate=40)
    html = notebook_html(matrix)
    assert len(html) < 100_000 and "chain" in html  # with the way down to the prompt
    page = page_of(matrix)
    blocks = {section["key"]: section["blocks"] for section in page.compact().content()["sections"]}
    (shown,) = [block for block in blocks["matrix"] if block["type"] == "map"]
    for row, expected in zip(shown["values"], matrix.matrix.tolist(), strict=True):
        assert row == pytest.approx(expected[: len(row)], rel=1e-3)


def test_a_series_in_the_notebook_strip_breaks_behind_commas() -> None:
    strip = notebook_html(fake_attribution(["<bos>", *"12,3,45;6"])).partition("<iframe")[0]
    parts = [re.sub(r"<(?!wbr)[^>]*>", "", part) for part in strip.split("<wbr>")]
    assert [part.rpartition("&gt;")[2] for part in parts] == ["12,", "3,", "45;", "6"]
    assert "<wbr>" not in notebook_html(fake_attribution()).partition("<iframe")[0]


def test_the_prediction_of_a_compact_page_takes_its_whole_width() -> None:
    (prediction,) = page_of(fake_attribution(n_layers=0)).compact().sections
    assert prediction.key == "prediction" and prediction.layout == "full"


def test_the_notebook_strip_needs_no_frame_and_is_text() -> None:
    strip = notebook_html(fake_attribution(HOSTILE_TOKENS)).partition("<iframe")[0]
    spans = Document(strip).named("span")
    assert len(spans) == len(HOSTILE_TOKENS)
    assert all(span["title"] and "background:#" in span["style"] for span in spans)
    assert not Document(strip).named("script") and not Document(strip).named("img")


def test_importing_the_views_loads_no_heavy_package() -> None:
    code = (
        "import sys, lens_scopes.views as v; v.print_result; v.TerminalReport; v.to_html; v.figure; v.notebook_html;"
        "print([m for m in ('torch', 'matplotlib', 'circuitsvis', 'pandas', 'transformer_lens') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_attribute_errors() -> None:
    import lens_scopes.views

    with pytest.raises(AttributeError, match="attribute drawings"):
        lens_scopes.views.drawings  # noqa: B018
    for name in lens_scopes.views.__all__:
        assert callable(getattr(lens_scopes.views, name))
