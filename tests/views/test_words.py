"""How tokens, numbers and data_warnings are written."""

import math

import pytest
import torch
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_results import fake_heads

from lens_scopes.views.words.attribution import (
    data_warnings,
    interpretation,
    likely,
    listing,
    number,
    percent,
    ranking,
    rows,
    short_names,
    title,
)
from lens_scopes.views.words.changes import heads_interpretation, unit_of_change
from lens_scopes.views.words.token_text import inline_token, printable_token


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" Sofa", "␣Sofa"),
        ("a b ", "a b␣"),
        ("   ", "␣␣␣"),
        ("", "∅"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("\r\n", "⟨U+000D⟩↵"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\u200b", "⟨U+200B⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        (" \u200d", "␣⟨U+200D⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u0e49", "◌\u0e49"),
        ("👨\u200d👩", "👨\u200d👩"),
        ("שלום", "שלום"),
        ("<bos>", "<bos>"),
    ],
)
def test_visible_tokens(token: str, expected: str) -> None:
    assert printable_token(token) == expected


@pytest.mark.parametrize(
    ("token", "expected"),
    [(" Sofa", " Sofa"), ("  ", "  "), ("", "∅"), ("a\nb", "a↵\nb"), ("\x1b", "⟨U+001B⟩"), ("\u2067x", "⟨U+2067⟩x")],
)
def test_running_tokens(token: str, expected: str) -> None:
    assert inline_token(token) == expected


@pytest.mark.parametrize("write", [printable_token, inline_token])
def test_no_written_token_is_empty_or_acts(write: object) -> None:
    assert callable(write)
    for code in [*range(0x3000), 0xFEFF, 0xFE0F, 0xD800, 0xE0020, 0x1F600]:
        written = write(chr(code))
        assert written
        assert not any(
            c in written for c in "\x1b\x00\x07\x9b\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f\u2028"
        )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (14.2, "14.20"),
        (-0.012341, "-0.01234"),
        (1.23456e-7, "1.235e-07"),
        (0.0, "0"),
        (math.nan, "not a number"),
        (math.inf, "infinite"),
        (-math.inf, "minus infinite"),
    ],
)
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "100.0%"), (0.7803, "78.0%"), (0.0995, "10.0%"), (0.09949, "9.9%"), (0.02, "2.0%"), (1e-5, "0.0010%")]
    + [(1e-6, "<0.001%"), (0.0, "0%")],
)
def test_percentages(share: float, expected: str) -> None:
    assert percent(share) == expected


def test_scores_are_compared_with_the_strongest_that_is_neither_special_nor_broken() -> None:
    attribution = fake_attribution(["<bos>", "a", "b", "c"], [100.0, 3.0, -1.0, math.nan], n_layers=0)
    assert [row.relative for row in rows(attribution)] == [None, 1.0, 1 / 3, None]
    assert all(row.relative is None for row in rows(fake_attribution(["a", "b"], [0.0, 0.0], n_layers=0)))


def test_ranking_is_by_magnitude_and_keeps_order_in_ties() -> None:
    assert ranking([9.0, 1.0, -3.0, 1.0, 0.0, math.inf], [True] + [False] * 5) == [2, 1, 3]


def test_the_target_is_always_among_the_likely_tokens() -> None:
    attribution = fake_attribution()
    rare = type(attribution.target)(5, " rare", 1e-9)
    assert [token.token for token in likely(fake_attribution(target=rare), 2)] == [" sofa", " couch", " rare"]
    assert [token.token for token in likely(attribution, 2)] == [" sofa", " couch"]


def test_nothing_odd_about_ordinary_scores() -> None:
    assert data_warnings(fake_attribution()) == []


def test_zero_scores_are_said_in_words() -> None:
    attribution = fake_attribution(["<bos>", "a", "b"], [7.0, 0.0, 0.0], layers=torch.zeros(18, 3))
    first, second = data_warnings(attribution)
    assert "Every score is exactly zero" in first
    assert second == "Every score at every layer is zero."


def test_broken_scores_are_counted_and_their_layers_named() -> None:
    layers = torch.ones(18, 4)
    layers[3, 1] = math.nan
    layers[5] = 0
    notes = data_warnings(fake_attribution(["<bos>", "a", "b", "c"], [7.0, math.nan, -math.inf, 1.0], layers=layers))
    assert notes[0].startswith("2 of 4 scores are not finite")
    assert notes[1:] == [
        "Layers with scores that are not finite (NaN or infinite): L3.",
        "Layers where every score is zero: L5.",
    ]


def test_a_prompt_of_special_tokens_alone_is_said_in_words() -> None:
    (note,) = data_warnings(fake_attribution(["<bos>"], [7.0], n_layers=0))
    assert "special token" in note


@pytest.mark.parametrize("scope", ["semantic", "temperature", "fisher", "entropy", "logit_diff", "my_own"])
@pytest.mark.parametrize("readout", ["norm", "dot", "product", "relative"])
@pytest.mark.parametrize("at", [[], ["blocks.0.attn.hook_v"]])
def test_the_reading_names_its_unit_or_formula(scope: str, readout: str, at: list[str]) -> None:
    text = interpretation(
        fake_attribution(
            scope=scope, settings={"readout": {"name": readout}, "score_sites": at, "divergence": scope == "fisher"}
        )
    )
    assert "unit" in text or "in nats" in text
    assert ("per unit of" in text) == (readout == "norm")
    assert ("blue" in text) == (readout == "dot" and scope != "fisher")
    assert ("embedding" in text) != bool(at)


def test_several_directions_of_a_users_own_are_no_signed_number() -> None:
    several = {"readout": {"name": "dot"}, "score_sites": [], "divergence": True}
    text = interpretation(fake_attribution(scope="custom", settings=several))
    assert "squared effects" in text and "squared" in text and "blue" not in text and "never negative" in text
    one = interpretation(fake_attribution(scope="custom", settings={**several, "divergence": False}))
    assert "first-order" in one and "blue" in one
    heads = fake_heads(scope="custom", settings={"divergence": True})
    words = heads_interpretation(heads)
    assert "second order" in words and "no sign" in words and "orange" not in words
    assert "squared" in unit_of_change(heads)
    assert "first order" in heads_interpretation(fake_heads(scope="custom", settings={"divergence": False}))


def test_titles_are_one_line_and_shortened_from_the_left() -> None:
    assert title(fake_attribution()).endswith("The dog sleeps on the → ␣sofa")
    assert title(fake_attribution(target=None)).endswith("→ ␣sofa")
    assert title(fake_attribution(["«", " عاصمة"], n_layers=0)).endswith(" عاصمة ← ␣sofa")
    long = title(fake_attribution([" word"] * 100 + [" end"], n_layers=0))
    assert long.startswith("…")
    assert long.endswith(" end → ␣sofa")
    assert len(long) == 80 + len(" → ␣sofa")
    assert "\n" not in title(fake_attribution(HOSTILE_TOKENS))


def test_short_layer_names() -> None:
    assert short_names(["blocks.0.hook_resid_pre", "blocks.11.hook_resid_pre"]) == ["L0", "L11"]
    assert short_names(["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"]) == ["L0 pre", "L0 mid"]
    assert short_names(["hook_embed", "blocks.2.attn.hook_z"]) == ["hook_embed", "L2 attn.hook_z"]
    assert listing([f"L{i}" for i in range(10)]) == "L0, L1, L2, L3, L4, L5, L6, L7 and 2 more"
