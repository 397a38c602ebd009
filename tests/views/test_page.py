"""The HTML page as text: what it contains, what is escaped, how sections and views are put together."""

import json
import math
import re
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest
import torch
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from html_document import Document

from lens_scopes.errors import FileError
from lens_scopes.views import Page, Section, View, attribution_page, framed, notebook_html, to_html
from lens_scopes.views.page import circuitsvis
from lens_scopes.views.page.circuitsvis import WORD_JOINER, bundle, encode, safe_token
from lens_scopes.views.page.heat_table import heat_table
from lens_scopes.views.words.attribution import number
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
    assert not re.search("[<>&]", re.search(r'draw\("token-strip",.*?\);draw', scripts[1]).group())  # type: ignore[union-attr]


def test_tokens_read_back_from_the_tables(hostile: str) -> None:
    body = hostile[hostile.index('class="scores') :]
    cells = re.findall(r'<td class="token" data-value="[^"]*"><bdi>(.*?)</bdi>', body)
    read = [Document(cell).texts for cell in cells]
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
    assert html.count('draw("') == 2
    assert "CircuitsVis" not in Page("bare").with_section(Section("a", "A", "<p>text</p>")).to_html()


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
    for name, row in zip(range(18), attribution.layers.tolist(), strict=True):
        for value in row:
            assert f"{number(value)}" in html
            assert f'title="L{name} · ' in html
    for item in attribution.prediction.top:
        assert f"width:{100 * item.probability:.2f}%" in html
    for key, text in attribution.contract.items():
        assert key in html
        assert escape(text) in html


def test_sections_are_there_where_the_attribution_has_them() -> None:
    keys = [section.key for section in attribution_page(fake_attribution(n_layers=0)).sections]
    assert keys == ["tokens", "prediction", "scores", "contract", "details"]
    keys = [section.key for section in attribution_page(fake_attribution(sites={"z": torch.rand(18, 2)})).sections]
    assert keys == ["tokens", "prediction", "layers", "sites", "scores", "contract", "details"]


def test_heads_of_a_site_are_rows_of_their_own_table() -> None:
    values = torch.arange(36.0).reshape(18, 2)
    html = to_html(fake_attribution(n_layers=0, sites={"blocks.3.attn.hook_z": values}))
    assert "H0 · ␣the · 34.00" in html
    assert "H1 · ␣the · 35.00" in html


def test_no_target_and_no_text() -> None:
    html = to_html(fake_attribution(target=None, text=None, scope="fisher", objective="Fisher(rank=4)"))
    assert "class=target" not in html
    assert 'title="most probable next token"><bdi><i>␣</i>sofa</bdi>' in html
    assert "½ δᵀFδ" in html


def test_zero_and_broken_scores_are_said_in_words() -> None:
    assert "Every score is exactly zero" in to_html(fake_attribution(scores=[0.0] * 18))
    html = to_html(fake_attribution(scores=[1.0, math.nan, math.inf] + [1.0] * 15))
    assert "2 of 18 scores are not finite" in html
    assert "not a number" in html
    assert "infinite" in html


def test_sections_go_where_they_are_put() -> None:
    start = Page("t").with_section(Section("a", "A", "")).with_section(Section("c", "C", ""))
    both = start.with_section(Section("b", "B", ""), before="c")
    assert [section.key for section in both.sections] == ["a", "b", "c"]
    assert len(start.sections) == 2
    with pytest.raises(ValueError, match="no section 'x' on this page, which has a, b, c"):
        both.with_section(Section("d", "D", ""), before="x")


def test_ids_and_places_of_views_are_checked() -> None:
    strip = View("strip", "ColoredTokens", {"tokens": [], "values": []})
    with pytest.raises(ValueError, match="two sections of this page have the id 'a'"):
        Page("t", sections=(Section("a", "A", ""), Section("a", "A", ""))).to_html()
    with pytest.raises(ValueError, match="two views of this page have the id 'strip'"):
        Page("t", sections=(Section("a", "A", strip.html, (strip,)), Section("b", "B", strip.html, (strip,)))).to_html()
    with pytest.raises(ValueError, match="must contain the html of its view 'strip' once"):
        Page("t", sections=(Section("a", "A", "<p></p>", (strip,)),)).to_html()
    with pytest.raises(ValueError, match="view id"):
        View('x"><script>', "ColoredTokens", {})
    with pytest.raises(ValueError, match="not the name of a CircuitsVis component"):
        View("x", "alert(1);Colored", {})


def test_properties_survive_encoding() -> None:
    props = {"tokens": ["</script>", "&amp;", "\u2028", "é😀", "\ud800"], "values": torch.tensor([0.5, 1.0]), "n": None}
    text = encode(props)
    assert not re.search("[<>&]", text)
    assert text.isascii()
    assert json.loads(text) == {"tokens": props["tokens"], "values": [0.5, 1.0]}
    assert encode({"v": [math.nan, -math.inf]}) == '{"v":[NaN,-Infinity]}'
    with pytest.raises(TypeError, match="object"):
        encode({"v": object()})


@pytest.mark.parametrize("token", HOSTILE_TOKENS)
def test_safe_tokens_only_gain_word_joiners(token: str) -> None:
    safe = safe_token(token)
    assert safe.replace(WORD_JOINER, "") == token
    assert not re.search(r"<[!/?a-zA-Z]|&[#a-zA-Z]", safe)


def test_a_missing_bundle_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuitsvis.importlib.util, "find_spec", lambda name: None)
    bundle.cache_clear()
    try:
        with pytest.raises(FileError, match="pip install circuitsvis"):
            bundle()
    finally:
        bundle.cache_clear()


def test_the_table_is_light() -> None:
    n_layers, n_tokens = 18, 500
    values = torch.rand(n_layers, n_tokens).tolist()
    tokens = [" token"] * n_tokens
    html = heat_table("k", "c", [f"L{i}" for i in range(n_layers)], "layer", tokens, [False] * n_tokens, values)
    assert len(html) < 100 * n_layers * n_tokens


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0123, "0.012"), (3.4e-7, "3.4e-7"), (123.4, "123"), (9999.0, "9999"), (12345.0, "1.2e4"), (-5.0, "-5")]
    + [(0.0, "0"), (math.nan, "nan"), (-math.inf, "-inf"), (1.0e-11, "1e-11"), (2e100, "2e100")],
)
def test_short_numbers(value: float, expected: str) -> None:
    assert short_number(value) == expected


def test_the_notebook_frame_holds_the_whole_page_and_is_closed() -> None:
    attribution = fake_attribution(HOSTILE_TOKENS)
    (frame,) = Document(notebook_html(attribution, height=500)).named("iframe")
    assert frame["srcdoc"] == to_html(attribution)
    assert frame["sandbox"] == "allow-scripts"
    assert frame["height"] == "500"
    assert "allow-same-origin" not in framed(Page("t"))


def test_importing_the_views_loads_no_heavy_package() -> None:
    code = (
        "import sys, lens_scopes.views as v; v.print_terminal; v.to_html; v.figure; v.notebook_html;"
        "print([m for m in ('torch', 'matplotlib', 'circuitsvis', 'pandas', 'transformer_lens') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_attribute_errors() -> None:
    import lens_scopes.views

    with pytest.raises(AttributeError, match="attribute charts"):
        lens_scopes.views.charts  # noqa: B018
    for name in lens_scopes.views.__all__:
        assert callable(getattr(lens_scopes.views, name))
