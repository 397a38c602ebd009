"""The leaderboard's table from what was measured: means, tests, shares, the figure of a paper's column, and a page."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from leaderboard_methods import (
    ABLATIONS,
    AGREEMENT,
    FAMILIES,
    LAST_TOKENS,
    LEFT_OUT,
    METHODS,
    QUANTITIES,
    REFERENCE,
    REMOVAL,
    SHORT,
)

from lens_scopes.evaluation.statistics.comparison import MIN_PAIRS, holm, paired_test
from lens_scopes.evaluation.statistics.intervals import attenuation_ceiling, mean_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Mapping[tuple[Any, ...], Mapping[str, Any]]  # lines by their keys
Values = Mapping[tuple[str, int], float]  # one number a passage


def findings(truth: Rows, agreement: Rows, removal: Rows) -> dict[str, Any]:
    """Means with 95% bootstrap intervals over passages, of both data sets and of each, paired tests against the
    reference, costs, and the share of what the truth's reliability leaves to reach.

    Holm's correction is over all tests of the table. A method takes part with the passages on which it was measured,
    and is tested on those that the reference has too.
    """
    rows = [*agreement.values(), *removal.values()]
    names = [name for name in (*METHODS, *LEFT_OUT) if any(row["method"] == name for row in rows)]
    values = {name: {quantity: _values(rows, name, quantity) for quantity in QUANTITIES} for name in names}
    ceiling = _ceiling(values)
    return {
        "passages": {"agreement": _counts(agreement), "removal": _counts(removal)},
        "tokens": _mean([len(row[ABLATIONS[0]]) for row in truth.values()]),
        "ceiling": ceiling,
        "methods": {name: _method(name, agreement.values(), values[name], ceiling) for name in names},
        "tests": _tests(values),
    }


def _method(
    name: str, rows: Iterable[Mapping[str, Any]], values: Mapping[str, Values], ceiling: Mapping[str, float]
) -> dict[str, Any]:
    own = [row for row in rows if row["method"] == name]
    return {
        "line": METHODS[name].line if name in METHODS else f"loo-kl@{LEFT_OUT[name]}",
        "family": METHODS[name].family if name in METHODS else "ablation",
        "forwards": _mean([row["forwards"] for row in own]),
        "backwards": _mean([row["backwards"] for row in own]),
        "values": _summary(values, ceiling),
    }


def _values(rows: Sequence[Mapping[str, Any]], name: str, quantity: str) -> dict[tuple[str, int], float]:
    """One number a passage; leave-one-out is not judged by its own truth."""
    if name in LEFT_OUT and quantity.endswith(LEFT_OUT[name]):
        return {}
    own = [row for row in rows if row["method"] == name and row.get(quantity) is not None]
    return dict(sorted(((row["data"], row["passage"]), row[quantity]) for row in own))


def _counts(rows: Rows) -> dict[str, int]:
    """How many passages of each data set were measured."""
    return dict(Counter(data for data, _ in dict.fromkeys((data, passage) for data, passage, _ in rows)))


def finite(value: float) -> float | None:
    """The value where it is a number, else None, which JSON holds."""
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _summary(values: Mapping[str, Values], ceiling: Mapping[str, float]) -> dict[str, Any]:
    """The mean of each quantity with its interval, over all passages and over those of each data set."""
    summary: dict[str, Any] = {}
    for quantity, of_passages in values.items():
        if not of_passages:
            continue
        samples = {"all": list(of_passages.values())}
        for (data, _), value in of_passages.items():
            samples.setdefault(data, []).append(value)
        intervals = mean_intervals(list(samples.values()))
        summary[quantity] = {
            name: {"mean": _mean(sample), "low": finite(low), "high": finite(high), "n": len(sample)}
            for (name, sample), (low, high) in zip(samples.items(), intervals, strict=True)
        }
        if quantity.startswith("spearman") and ceiling:
            summary[quantity]["share"] = summary[quantity]["all"]["mean"] / ceiling["value"]
    return summary


def _ceiling(values: Mapping[str, Mapping[str, Values]]) -> dict[str, float]:
    """What a perfect predictor of the common part of the two truths reaches with either: √ of their agreement, taken to
    be equally reliable."""
    first = next(iter(LEFT_OUT))
    agreement = [
        value
        for quantity, of in values.get(first, {}).items()
        if quantity.startswith("spearman")
        for value in of.values()
    ]
    if len(agreement) < 2:
        return {}
    value, low, high = attenuation_ceiling(agreement)
    return {"agreement": sum(agreement) / len(agreement), "value": value, "low": low, "high": high}


def _tests(values: Mapping[str, Mapping[str, Values]]) -> list[dict[str, Any]]:
    """Wilcoxon's paired tests of every method against the reference, corrected over all of them; a hit, which is 0 or 1
    of a passage, has none."""
    tests: list[dict[str, Any]] = []
    for name, quantities in values.items():
        for quantity, of_passages in quantities.items() if name != REFERENCE else ():
            reference = values.get(REFERENCE, {}).get(quantity, {})
            both = [key for key in of_passages if key in reference and not quantity.startswith("top5")]
            if len(both) >= MIN_PAIRS:
                test = paired_test([of_passages[key] for key in both], [reference[key] for key in both])
                tests.append({"method": name, "quantity": quantity, **asdict(test)})
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return tests


def ordered(found: Mapping[str, Any], quantity: str = "spearman, mean") -> list[str]:
    """The methods from the best of a quantity; those without it come last."""

    def mean(name: str) -> float:
        return found["methods"][name]["values"].get(quantity, {}).get("all", {}).get("mean", -math.inf)

    return sorted(found["methods"], key=mean, reverse=True)


def passages_text(found: Mapping[str, Any], part: str = "agreement") -> str:
    """How many passages of which data, in words."""
    return " and ".join(f"{count} {data.upper()}" for data, count in found["passages"][part].items()) or "no"


def cell(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A mean with its interval."""
    if value is None:
        return "–"
    interval = "" if value["low"] is None else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['mean']:.{digits}f}{interval}"


def summary(record: Mapping[str, Any]) -> list[str]:
    """The table as lines of text, from the best agreement."""
    found = record["findings"]
    p_values = {(test["method"], test["quantity"]): test["p_holm"] for test in found["tests"]}
    lines = [f"{passages_text(found)} passages; comprehensiveness and sufficiency: {passages_text(found, 'removal')}"]
    if found["ceiling"]:
        lines.append(
            f"ceiling {found['ceiling']['value']:.2f}, agreement of mean and zero {found['ceiling']['agreement']:.2f}"
        )
    for name in ordered(found):
        method = found["methods"][name]
        parts = [f"{name:30} {method['forwards'] or 0:5.1f} F {method['backwards'] or 0:4.1f} B"]
        for quantity in QUANTITIES:
            value = method["values"].get(quantity)
            share = f" {value['share']:.0%}" if value and "share" in value else ""
            p = p_values.get((name, quantity))
            parts.append(f"{cell(value and value['all'])}{share}" + ("" if p is None else f" p {p:.1g}"))
        lines.append(" | ".join([*parts, f"n {count_of(method)}"]))
    return lines


def markdown(record: Mapping[str, Any]) -> list[str]:
    """The tables of README.md, of agreement and of removal, each from its best; what knows nothing of the model is in
    italics."""
    found = record["findings"]
    p_values = {(test["method"], test["quantity"]): test["p_holm"] for test in found["tests"]}
    lines = [
        "| method | Spearman, mean | reached | Spearman, zero | reached | given position, mean | given position, zero "
        "| top 5, mean | passes: forward, backward | Holm p, mean, zero | n |",
        "| --- |" + " --- |" * 10,
    ]
    for name in ordered(found):
        method = found["methods"][name]
        values = method["values"]
        cells = [_title(name)]
        for ablation in ABLATIONS:
            of = values.get(f"spearman, {ablation}")
            cells += [cell(of and of["all"]), f"{of['share']:.0%}" if of and "share" in of else "–"]
        cells += [cell((values.get(f"partial, {ablation}") or {}).get("all")) for ablation in ABLATIONS]
        hits = values.get("top5, mean")
        cells.append(f"{hits['all']['mean']:.2f}" if hits else "–")
        cells.append(f"{method['forwards'] or 0:.0f}, {method['backwards'] or 0:.0f}")
        cells.append(_p_cell(p_values, name, [f"spearman, {ablation}" for ablation in ABLATIONS]))
        cells.append(str(count_of(method)))
        lines.append(_line(cells))
    return [*lines, *_removal_lines(found, p_values)]


def short_markdown(record: Mapping[str, Any]) -> list[str]:
    """The table of the project's README: the rows that a user needs."""
    found = record["findings"]
    lines = ["| method | agreement | given position | passes | passages |", "| --- |" + " --- |" * 4]
    for name in (name for name in ordered(found) if name in SHORT):
        method = found["methods"][name]
        values = [method["values"].get(f"{what}, mean", {}).get("all") for what in ("spearman", "partial")]
        passes = f"{method['forwards'] or 0:.0f} + {method['backwards'] or 0:.0f}"
        lines.append(_line([SHORT[name], *map(cell, values), passes, str(count_of(method))]))
    return lines


def _removal_lines(found: Mapping[str, Any], p_values: Mapping[tuple[str, str], float]) -> Iterator[str]:
    counts = {name: count_of(method, REMOVAL) for name, method in found["methods"].items()}
    measured = [name for name in ordered(found, "comprehensiveness") if counts[name] >= MIN_PAIRS]
    if not measured:
        return
    yield ""
    yield "| method | comprehensiveness | sufficiency | Holm p, both | n |"
    yield "| --- |" + " --- |" * 4
    for name in measured:
        values = [found["methods"][name]["values"].get(quantity, {}).get("all") for quantity in REMOVAL]
        tests = _p_cell(p_values, name, REMOVAL)
        yield _line([_title(name), *map(cell, values), tests, str(counts[name])])


def _title(name: str) -> str:
    trivial = name in METHODS and METHODS[name].family == "trivial"
    return f"*{name}*" if trivial else f"**{name}**" if name == REFERENCE else name


def _p_cell(p_values: Mapping[tuple[str, str], float], name: str, quantities: Iterable[str]) -> str:
    tests = [p_values.get((name, quantity)) for quantity in quantities]
    return ", ".join("–" if p is None else f"{p:.1g}" for p in tests)


def _line(cells: Iterable[str]) -> str:
    """A row of a table, with minus signs for hyphens before digits that no word ends in."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", f"| {' | '.join(cells)} |")


# Figure and page


def draw(record: Mapping[str, Any]) -> dict[str, Callable[[], Figure]]:
    """The agreement of every method with leaving tokens out, for one column of a paper."""
    return {"leaderboard": lambda: _figure(record["findings"])}


def _figure(found: Mapping[str, Any]) -> Figure:
    import matplotlib

    from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE, QUIET, STYLE, new_figure

    names = ordered(found)
    with matplotlib.rc_context({**STYLE, "font.size": 6}):
        figure = new_figure(3.4, 0.7 + 0.135 * len(names))
        axes: Any = figure.subplots()
        for ablation, colour, mark, shift in (("mean", DEEP_POSITIVE, "o", -0.17), ("zero", DEEP_NEGATIVE, "s", 0.17)):
            for row, name in enumerate(names):
                value = found["methods"][name]["values"].get(f"spearman, {ablation}", {}).get("all")
                if value is None:
                    continue
                if value["low"] is not None:
                    axes.plot([value["low"], value["high"]], [row + shift] * 2, color=colour, linewidth=0.8)
                axes.plot(value["mean"], row + shift, mark, color=colour, markersize=2.4)
            axes.plot([], [], mark, color=colour, markersize=2.4, label=f"replaced by {ablation}")
        if found["ceiling"]:
            axes.axvline(found["ceiling"]["value"], color=QUIET, linewidth=0.6, linestyle=":")
        axes.axvline(0, color=QUIET, linewidth=0.4)
        axes.set_yticks(range(len(names)), [_label(found, name) for name in names])
        for text, name in zip(axes.get_yticklabels(), names, strict=True):
            text.set_style("italic" if found["methods"][name]["family"] == "trivial" else "normal")
            text.set_weight("bold" if name == REFERENCE else "normal")
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.tick_params(left=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("Spearman with leave-one-out KL")
        # The legend stands above the axes, since a table of any length leaves no corner of them free.
        axes.legend(
            title=f"{passages_text(found)} passages, 95% intervals\ndotted: what the truth's reliability allows",
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=2,
            fontsize=6,
            title_fontsize=6,
            frameon=False,
            handletextpad=0.2,
            borderaxespad=0,
            alignment="left",
        )
    return figure


def _label(found: Mapping[str, Any], name: str) -> str:
    """A method's name for the figure, with its number of passages where that is not the whole."""
    count, whole = count_of(found["methods"][name]), sum(found["passages"]["agreement"].values())
    return name.replace("Integrated Gradients", "IG") + ("" if count == whole else f" (n = {count})")


def count_of(method: Mapping[str, Any], quantities: Iterable[str] = AGREEMENT) -> int:
    """On how many passages a method was measured: its agreement, or other quantities."""
    return max((method["values"][name]["all"]["n"] for name in quantities if name in method["values"]), default=0)


def pages(record: Mapping[str, Any]) -> dict[str, str]:
    """One page with the whole table, whose headings sort it."""
    from lens_scopes.views.page.document import Page
    from lens_scopes.views.words.pages.parts.blocks import Section, definitions, kind, lead

    found = record["findings"]
    header = [kind(f"{record['model']['name']}, {record['model']['dtype']}"), {"type": "prompt", "text": "Leaderboard"}]
    about = [lead(sentence, quiet=True) for sentence in _how_to_read(found)]
    sections = (
        Section("table", "Methods", [*about, _table(found)]),
        Section(
            "columns", "Columns", [definitions({name.replace(",", " by"): words for name, words in QUANTITIES.items()})]
        ),
        Section(
            "settings", "Settings", [definitions({name: str(value) for name, value in record["settings"].items()})]
        ),
    )
    return {"leaderboard": Page("Leaderboard of token attribution", header, sections).to_html()}


def _heading(quantity: str) -> str:
    return quantity.replace(",", " by")


def _how_to_read(found: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Agreement is over {passages_text(found)} passages of the last {LAST_TOKENS} tokens, comprehensiveness and "
        f"sufficiency over {passages_text(found, 'removal')} whole passages. A heading sorts the table by its column."
    )
    if ceiling := found["ceiling"]:
        yield (
            f"The two ablations agree with each other at {ceiling['agreement']:.2f}, so a perfect predictor of what "
            f"they share reaches about {ceiling['value']:.2f} with either, taken to be equally reliable. “Reached” is "
            "a method's mean as a share of that."
        )
    yield (
        f"p is of Wilcoxon's paired test of agreement (mean) against {REFERENCE}, after Holm over all "
        f"{len(found['tests'])} tests of the table. Other columns' tests are in the record."
    )


def _table(found: Mapping[str, Any]) -> dict[str, Any]:
    from lens_scopes.views.words.pages.parts.blocks import number_cell, table, text_cell

    p_values = {(test["method"], test["quantity"]): test["p_holm"] for test in found["tests"]}
    columns = [("method", "text"), ("family", "text")]
    for quantity in QUANTITIES:
        columns.append((_heading(quantity), "number"))
        columns += [("reached", "number")] if quantity.startswith("spearman") else []
    columns += [("p", "number"), ("forward", "number"), ("backward", "number"), ("passages", "number")]
    rows = []
    for name in ordered(found):
        method = found["methods"][name]
        row = [text_cell(name, name, "component"), text_cell(FAMILIES[method["family"]], method["family"], "")]
        for quantity in QUANTITIES:
            value = method["values"].get(quantity)
            row.append(number_cell(cell(value and value["all"]), value and value["all"]["mean"]))
            if quantity.startswith("spearman"):
                share = value and value.get("share")
                row.append(number_cell("–" if share is None else f"{share:.0%}", share))
        p = p_values.get((name, "spearman, mean"))
        row.append(number_cell("–" if p is None else f"{p:.2g}", p))
        for passes in ("forwards", "backwards"):
            row.append(number_cell(f"{method[passes] or 0:g}", method[passes]))
        rows.append([*row, number_cell(str(count_of(method)), count_of(method))])
    return table("Every method with 95% bootstrap intervals", columns, rows)
