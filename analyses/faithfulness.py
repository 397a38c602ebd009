"""Do the scopes tell the truth? The paper's faithfulness tables on the embedded model, with the statistics.

python analyses/faithfulness.py LAMBADA.json IWSLT.json            measures what is missing, then sums it up
python analyses/faithfulness.py LAMBADA.json IWSLT.json --only aopc

Each table is one `lens-scopes evaluate` in a folder of its own under out/faithfulness/, which goes on where it stopped.
The passages are text whose last token is the target: LAMBADA (Paperno et al. 2016), and lines "German: … English: …" of
IWSLT2017. They are not part of this repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from records import RESULTS, ROOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = {
    "source": "arXiv:2601.16407, its rebuttal and its public result files: other models and conventions "
    "(true-token targets, the target counted, another Integrated Gradients in each table); see the gallery",
    "aopc, pad, LAMBADA, Gemma-3-1B": {
        "random": -0.63, "ig": -0.81, "ixg": -0.80, "semantic": -0.80, "temperature": -0.81, "fisher": -0.80
    },
    "aopc, pad, IWSLT, Gemma-3-1B": {
        "random": -0.85, "ig": -1.02, "ixg": -1.03, "semantic": -1.03, "temperature": -1.04, "fisher": -1.03
    },
    "aopc, zero, IWSLT, Gemma-3-1B": {"semantic": -1.302, "temperature": -1.290, "fisher": -1.393},
    "aopc, zero, IWSLT, LLaMA-3.2-1B, correct predictions": {
        "ig-bos": -1.273, "ig-eos": -1.236, "ig": -0.962, "ixg": -1.119, "semantic": -1.124, "fisher": -1.141
    },
    "aopc, zero, LAMBADA, LLaMA-3.2-1B, correct predictions": {
        "ig-bos": -1.437, "semantic": -1.540, "fisher": -1.531
    },
    "loo-kl-spearman, zero, LAMBADA, LLaMA-3.2-1B": {
        "temperature": 0.550, "semantic": 0.562, "ixg": 0.556, "fisher@4": 0.590, "ig-semantic": 0.300, "random": 0.005
    },
    "randomization by the initialiser, no BOS, correct predictions, LAMBADA, Gemma-3-1B": {
        "semantic": [0.880, 0.805, 0.339], "temperature": [0.823, 0.807, 0.356], "fisher": [0.837, 0.794, 0.329]
    },
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One evaluation: which passages, what is measured, and with which method the others are compared."""

    passages: str
    methods: Sequence[str]
    metrics: Sequence[str]
    ablations: Sequence[str]
    limit: int
    reference: str
    dtype: str = "float32"
    skip: int = 0
    last_tokens: int | None = None
    protocol: str | None = None


_PATHS = ("ig@5", "ig-mean-held@5", "ig-bos@5")
_STARTS = tuple(
    f"ig{start}@5"
    for start in ("", "-zero-held", "-mean", "-mean-held", "-bos", "-eos", "-eos-held", "-pad", "-pad-held")
)
_TRIVIAL = ("random", "closeness", "embedding-norm", "surprisal", "fisher+redrawn")
_ATTENTION = ("attention-rollout", "value-attention")
_SCOPES = ("ixg", "semantic", "temperature", "fisher", "fisher+values")
_CANDIDATES = ("fisher", "fisher+values")
_PAPER_METHODS = ("random", "ig@8", "ixg", "semantic", "temperature", "fisher")

TABLES = {
    "aopc-lambada": Table(
        "lambada", _PAPER_METHODS, ("aopc", "aopc-kl"), ("zero", "pad"), 200, "fisher", dtype="bfloat16"
    ),
    "aopc-iwslt": Table("iwslt", _PAPER_METHODS, ("aopc", "aopc-kl"), ("zero", "pad"), 200, "fisher", dtype="bfloat16"),
    "agreement": Table(
        "lambada",
        (*_PAPER_METHODS, "fisher@4", "fisher+values"),
        ("loo-kl", "loo-kl-null", "first-token"),
        ("zero",),
        200,
        "fisher",
    ),
    "confirmation": Table(
        "lambada",
        ("fisher", "fisher@8", "fisher+values", "fisher@8+values"),
        ("loo-kl", "aopc", "aopc-kl"),
        ("mean", "resample"),
        41,
        "fisher",
        skip=200,
    ),
    "ceiling": Table("lambada", ("loo-kl@mean",), ("loo-kl",), ("resample",), 10, "loo-kl@mean", skip=200),
    "values-lambada": Table(
        "lambada", _CANDIDATES, ("aopc", "aopc-kl"), ("zero", "pad", "mean"), 100, "fisher", dtype="bfloat16", skip=200
    ),
    "values-iwslt": Table(
        "iwslt", _CANDIDATES, ("aopc", "aopc-kl"), ("zero", "pad", "mean"), 200, "fisher", dtype="bfloat16"
    ),
    "agreement-baselines": Table(
        "lambada",
        (*_TRIVIAL, *_ATTENTION, *_PATHS, *_SCOPES, "loo-kl@mean", "loo-kl@zero"),
        ("loo-kl",),
        ("zero", "mean"),
        40,
        "fisher",
        skip=100,
        last_tokens=64,
    ),
    "agreement-starts": Table(
        "lambada", (*_STARTS, "fisher"), ("loo-kl",), ("zero",), 20, "fisher", skip=140, last_tokens=64
    ),
    "reliability": Table(
        "lambada",
        ("loo-kl@mean", "loo-kl@zero", "fisher", "fisher+values"),
        ("loo-kl",),
        ("zero", "mean", "resample"),
        20,
        "fisher",
        skip=160,
        last_tokens=64,
    ),
    "randomization": Table(
        "lambada", ("semantic", "temperature", "fisher", "random"), ("randomization",), (), 50, "fisher"
    ),
    "redraws": Table(
        "lambada",
        ("semantic", "temperature", "fisher"),
        ("randomization", "randomization-initializer"),
        (),
        16,
        "fisher",
        last_tokens=64,
    ),
    "redraws-paper": Table(
        "lambada",
        ("semantic", "temperature", "fisher"),
        ("randomization",),
        (),
        16,
        "fisher",
        last_tokens=64,
        protocol="arXiv:2601.16407",
    ),
    **{
        f"aopc-baselines-{passages}": Table(
            passages,
            ("random", "closeness", "ig-bos@5", "ixg", "fisher"),
            ("aopc", "aopc-kl"),
            ("zero",),
            40,
            "fisher",
            dtype="bfloat16",
            last_tokens=64,
        )
        for passages in ("lambada", "iwslt")
    },
    **{
        f"aopc-{dtype}": Table(
            "lambada", ("ixg", "fisher"), ("aopc", "aopc-kl"), ("zero",), 50, "fisher", dtype=dtype, last_tokens=64
        )
        for dtype in ("float32", "bfloat16")
    },
    "aopc-paper": Table(
        "lambada",
        ("random", "ig", "ixg", "fisher"),
        ("aopc",),
        ("zero",),
        30,
        "fisher",
        last_tokens=64,
        protocol="arXiv:2601.16407",
    ),
    "agreement-paper": Table(
        "lambada",
        ("random", "ig-semantic", "ixg", "semantic", "temperature", "fisher@4"),
        ("loo-kl",),
        ("zero",),
        20,
        "fisher@4",
        skip=100,
        last_tokens=64,
        protocol="arXiv:2601.16407",
    ),
}


def measure(name: str, table: Table, files: Mapping[str, Path], folder: Path) -> None:
    """Measures what is missing of one table."""
    import lens_scopes as ls
    from lens_scopes.cli.progress import progress_bar

    model = ls.load_model(dtype=table.dtype)
    passages: Any = files[table.passages]
    if table.last_tokens is not None:
        passages = cut(model, passages, table.last_tokens)
    with progress_bar(name) as progress:
        ls.evaluate(
            model,
            passages,
            methods=table.methods,
            metrics=table.metrics,
            ablations=table.ablations,
            out=folder / name,
            limit=table.limit,
            skip=table.skip,
            protocol=table.protocol,
            progress=progress,
        )


def cut(model: Any, path: Path, count: int) -> Any:
    """The passages of a file as token ids: BOS, the last `count` tokens of what is read, and the target."""
    from lens_scopes.evaluation.passages.read import Passage, Passages, read_passages
    from lens_scopes.prompts.read import read_prompt

    passages = read_passages(path)
    items = []
    for text in passages.texts:
        prompt = read_prompt(model, text)
        first = prompt.token_ids[:1] if prompt.special[0] else ()
        items.append(Passage((*first, *prompt.token_ids[max(len(first), len(prompt) - count - 1) :])))
    return Passages(f"{passages.name}, last {count} tokens", tuple(items))


def summed_up(name: str, table: Table, folder: Path) -> dict[str, Any]:
    """What has been measured of one table, with its statistics."""
    import lens_scopes as ls

    report = ls.report(folder / name, reference=table.reference)
    rows = report.results.rows
    return report.to_dict() | {"ceiling": ceiling(rows), "ceilings_of_three": ceilings_of_three(rows)}


def ceiling(rows: Any) -> dict[str, Any] | None:
    """What a perfect predictor of the common part of two ablations' leave-one-out KL reaches with either: √ of their
    agreement, taken to be equally reliable; None where a table has no two of them."""
    from lens_scopes.evaluation.statistics.intervals import attenuation_ceiling

    chosen = rows[(rows["metric"] == "loo-kl-spearman") & rows["method"].str.startswith("loo-kl@")]
    chosen = chosen[chosen["method"].str.removeprefix("loo-kl@") != chosen["ablation"]]
    if not len(chosen):
        return None
    first = chosen[chosen["method"] == chosen["method"].iloc[0]]
    first = first[first["ablation"] == first["ablation"].iloc[0]]
    value, low, high = attenuation_ceiling(first["value"].to_numpy())
    pair = [first["method"].iloc[0].removeprefix("loo-kl@"), first["ablation"].iloc[0]]
    return {"ablations": pair, "agreement": float(first["value"].mean()), "value": value, "low": low, "high": high}


def ceilings_of_three(rows: Any) -> dict[str, dict[str, float]] | None:
    """The same for each of three ablations, which then need not be equally reliable; None without three of them."""
    from lens_scopes.evaluation.statistics.intervals import attenuation_ceiling

    chosen = rows[(rows["metric"] == "loo-kl-spearman") & rows["method"].str.startswith("loo-kl@")]
    agreement = {
        frozenset((method.removeprefix("loo-kl@"), ablation)): group.sort_values("passage")["value"].to_numpy()
        for (method, ablation), group in chosen.groupby(["method", "ablation"])
        if method.removeprefix("loo-kl@") != ablation
    }
    names = sorted(set().union(*agreement)) if agreement else []
    if len(names) != 3:
        return None
    ceilings = {}
    for name in names:
        one, other = (item for item in names if item != name)
        pairs = [frozenset((name, one)), frozenset((name, other)), frozenset((one, other))]
        value, low, high = attenuation_ceiling(*(agreement[pair] for pair in pairs))
        ceilings[name] = {"value": value, "low": low, "high": high}
    return ceilings


def summary(record: Mapping[str, Any]) -> list[str]:
    """The tables as lines of text."""
    lines = []
    for name, table in record["tables"].items():
        lines.append(f"{name}: {table['passages']}")
        for row in table["means"]:
            if row["passages"] == "all" and row["fraction"] is None and _finite(row["mean"]):
                where = f" {row['ablation']}" if row["ablation"] else ""
                interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if _finite(row["low"]) else "no interval"
                lines.append(
                    f"  {row['metric']}{where}  {row['method']}: {row['mean']:.3f} {interval} n={row['count']}"
                )
        for ablation, item in (table.get("ceilings_of_three") or {}).items():
            lines.append(f"  ceiling {ablation}: {item['value']:.3f} [{item['low']:.3f}, {item['high']:.3f}]")
            for row in table["means"]:
                own = (row["metric"], row["ablation"], row["passages"]) == ("loo-kl-spearman", ablation, "all")
                if own and not row["method"].startswith("loo-kl@"):
                    lines.append(f"    {row['method']} reaches {row['mean'] / item['value']:.0%} of it")
    return lines


def draw(record: Mapping[str, Any]) -> dict[str, Callable[[], Figure]]:
    """Means with 95% intervals: the AOPC of both data sets, and the agreement with leaving tokens out."""
    return {"faithfulness": lambda: _drawn(record)}


def _drawn(record: Mapping[str, Any]) -> Figure:
    import matplotlib

    from lens_scopes.views.figures.style import STYLE, add_header, new_figure

    wanted = (
        ("LAMBADA", "aopc-lambada", "aopc"),
        ("IWSLT", "aopc-iwslt", "aopc"),
        ("LAMBADA", "agreement", "loo-kl-spearman"),
    )
    shown = [item for item in wanted if item[1] in record["tables"]]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.75 * len(shown), 2.9)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (title, table, metric) in zip(panels, shown, strict=True):
            _panel(axes, record["tables"][table], metric)
            count = max(row["count"] for row in record["tables"][table]["means"])
            axes.set_title(f"{title} ({count} passages)", fontsize=7.5)
        if len(shown) > 1:  # the methods of the first two are the same
            panels[1].tick_params(labelleft=False)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7
        )
        add_header(
            figure, ("Gradient scores lie close together, far from a random order; Fisher Scope leads by little",)
        )
    return figure


def _panel(axes: Any, table: Mapping[str, Any], metric: str) -> None:
    from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE

    names = {
        "random": "random order",
        "ig@8": "Integrated Gradients, 8 steps",
        "ixg": "Input × Gradient",
        "fisher@4": "Fisher, rank 4",
        "fisher+values": "Fisher at values",
    }
    rows = [row for row in table["means"] if row["passages"] == "all" and row["metric"] == metric]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    ablations = list(dict.fromkeys(row["ablation"] for row in rows))
    for place, ablation in enumerate(ablations):
        chosen = {row["method"]: row for row in rows if row["ablation"] == ablation}
        heights = [len(methods) - index + 0.16 * (0.5 - place) * 2 for index in range(len(methods))]
        means = [chosen[method]["mean"] for method in methods]
        errors = [
            [mean - chosen[method]["low"] for mean, method in zip(means, methods, strict=True)],
            [chosen[method]["high"] - mean for mean, method in zip(means, methods, strict=True)],
        ]
        axes.errorbar(
            means,
            heights,
            xerr=errors,
            fmt="os"[place % 2],
            color=(DEEP_POSITIVE, DEEP_NEGATIVE)[place % 2],
            label={"zero": "tokens set to zero", "pad": "tokens set to padding"}.get(ablation, ablation),
            ms=3,
            lw=1,
        )
    named = [names.get(method, method.capitalize()) for method in methods]
    axes.set_yticks([len(methods) - index for index in range(len(methods))], named)
    axes.set_xlabel("AOPC in nats; lower is better" if metric == "aopc" else "Spearman with leave-one-out")
    axes.spines[["top", "right"]].set_visible(False)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def main(
    lambada: Annotated[Path, typer.Argument(help="LAMBADA passages: a JSON list of texts.")],
    iwslt: Annotated[Path, typer.Argument(help="IWSLT lines: a JSON list of texts.")],
    only: Annotated[list[str] | None, typer.Option(help=f"One table, several times: {', '.join(TABLES)}.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the result folders are kept.")] = ROOT / "out" / "faithfulness",
    measured: Annotated[bool, typer.Option("--measured", help="Sum up what is there, and measure nothing.")] = False,
) -> None:
    """Measure the tables and save their statistics into analyses/results/faithfulness.json."""
    unknown = [name for name in only or [] if name not in TABLES]
    if unknown:
        raise typer.BadParameter(f"no table is called {unknown[0]!r}; the tables are {', '.join(TABLES)}")
    from lens_scopes.results.storage.writing import write_whole

    path = RESULTS / "faithfulness.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tables": {}}
    record["paper"] = PAPER
    for name in only or TABLES:
        if not measured:
            measure(name, TABLES[name], {"lambada": lambada, "iwslt": iwslt}, folder)
        record["tables"][name] = summed_up(name, TABLES[name], folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(record, ensure_ascii=False, indent=1).encode("utf-8") + b"\n")
    for line in summary(record):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
