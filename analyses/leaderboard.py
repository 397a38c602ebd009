"""Why this and not another attribution? Scopes, their rivals and trivial scores on one table.

python analyses/leaderboard.py LAMBADA.json IWSLT.json                    measures what is missing, then sums it up
python analyses/leaderboard.py LAMBADA.json IWSLT.json --passages 20      only the first 20 passages of each
python analyses/leaderboard.py LAMBADA.json IWSLT.json --only fisher@8    one method
python analyses/leaderboard.py LAMBADA.json IWSLT.json --measured --draw  sums up what is there, and draws it

Every line under analyses/results/measured/leaderboard/ is on disk before the next number is measured, and the same
command goes on from there; a passage is known there by a digest, not by its words. The truth, the KL of leaving each
token out, is measured once for each passage and serves all methods. It and the agreement with it are of the last 64
tokens; comprehensiveness and sufficiency are of the whole text. Settings were fixed on passages 0 to 49, which are
never measured here. Passages are text whose last token is the target, as in `faithfulness.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from faithfulness import cut
from leaderboard_methods import ABLATIONS, CHOSEN_ON, LAST_TOKENS, LEFT_OUT, METHODS, PASSAGES, Entry
from leaderboard_table import draw, findings, finite, markdown, pages, short_markdown, summary
from records import FIGURES, MEASURED, RESULTS, load_record, shortened_floats

from lens_scopes.errors import FileError
from lens_scopes.evaluation.metrics.agreement import correlation, partial_correlation, top_hit
from lens_scopes.evaluation.storage.folder import Shard, read_line
from lens_scopes.results.storage.writing import write_whole

if TYPE_CHECKING:
    import lens_scopes as ls

__all__ = ["draw", "pages", "summary"]  # what `draw.py` takes of a study


# Lines on disk


class Lines:
    """Measurements on disk, one line of JSON each, known by their keys; a torn last line is measured again."""

    def __init__(self, path: Path, *keys: str) -> None:
        self.path, self.keys = path, keys
        content = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        self.rows = {self._key(row): row for row in map(read_line, content)}

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in self.keys)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line, and waits until it is on the disk."""
        row = shortened_floats(row)
        with Shard(self.path) as shard:
            shard.append(row)
        self.rows[self._key(row)] = row


@dataclass
class Store:
    """All that is measured, in one folder."""

    truth: Lines
    agreement: Lines
    removal: Lines

    @classmethod
    def of(cls, folder: Path) -> Store:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(
            Lines(folder / "truth.jsonl", "data", "passage"),
            Lines(folder / "agreement.jsonl", "data", "passage", "method"),
            Lines(folder / "removal.jsonl", "data", "passage", "method"),
        )


# Measuring


def measure(
    store: Store, files: Mapping[str, Path], passages: int, names: Sequence[str], parts: Sequence[str], seconds: float
) -> None:
    """Measures what is missing, the data sets by turns; begins no passage after so many seconds."""
    import lens_scopes as ls
    from lens_scopes.attribution.provenance import package_versions
    from lens_scopes.evaluation.passages.read import read_passages

    model = ls.load_model()
    about = {"model": asdict(ls.model_record(model)), "versions": package_versions()}
    write_whole(store.truth.path.parent / "about.json", json.dumps(about, indent=1).encode())
    whole = {data: read_passages(path) for data, path in files.items()}
    short = {data: cut(model, path, LAST_TOKENS) for data, path in files.items()}
    began = time.monotonic()
    for passage in range(CHOSEN_ON, CHOSEN_ON + passages):
        for data in files:
            if passage >= len(whole[data]) or time.monotonic() - began > seconds:
                continue
            started = time.process_time()
            if "agreement" in parts:
                measure_agreement(model, store, data, passage, short[data].texts[passage], names)
            if "removal" in parts:
                measure_removal(model, store, data, passage, whole[data].texts[passage], names)
            typer.echo(f"{data} {passage}: {time.process_time() - started:.1f} s")


def prompt_of(model: Any, text: Any) -> ls.Prompt:
    """A passage without its last token."""
    from lens_scopes.prompts.read import read_prompt

    return read_prompt(model, read_prompt(model, text).token_ids[:-1])


def digest_of(token_ids: Sequence[int]) -> str:
    """What a passage's tokens are known by, where their text may not be copied."""
    return hashlib.sha256(json.dumps(list(token_ids)).encode()).hexdigest()[:16]


def measure_truth(
    model: Any, store: Store, data: str, passage: int, prompt: ls.Prompt, ablations: Sequence[str] = ABLATIONS
) -> dict[str, Any]:
    """KL(p ‖ p without the token) of every token that is not special, by each ablation; measured once."""
    from lens_scopes.engine.model import ScopedModel
    from lens_scopes.engine.token_ablation import AblatedPrompt

    key, digest = (data, passage), digest_of(prompt.token_ids)
    if key in store.truth:
        row = store.truth.rows[key]
        if row["digest"] != digest:
            raise FileError(f"{store.truth.path} has another text for {data} {passage}; give another folder.")
        return row
    scoped = ScopedModel.of(model)
    started = time.process_time()
    with torch.no_grad():
        logits = scoped.unembedding().logits(scoped.run_to_final_states([prompt.token_ids]))[0]
        row: dict[str, Any] = {"data": data, "passage": passage, "digest": digest, "target": int(logits.argmax())}
        for ablation in ablations:
            ablated = AblatedPrompt(scoped, prompt.token_ids, prompt.special, row["target"], ablation)
            masks = torch.eye(len(prompt), dtype=torch.bool)[ablated.eligible]
            row[ablation] = ablated.outcomes(masks).divergence.tolist()
    store.truth.append(row | {"seconds": time.process_time() - started})
    return store.truth.rows[key]


def measure_agreement(
    model: Any,
    store: Store,
    data: str,
    passage: int,
    text: Any,
    names: Sequence[str],
    methods: Mapping[str, Entry] = METHODS,
    ablations: Sequence[str] = ABLATIONS,
) -> None:
    """The agreement with the truth of one passage, of the methods of these names and of leaving out."""
    from lens_scopes.evaluation.methods.names import as_method

    missing = [name for name in names if (data, passage, name) not in store.agreement]
    if not missing:
        return
    prompt = prompt_of(model, text)
    truth = measure_truth(model, store, data, passage, prompt, ablations)
    left_out = {f"leave one out, {ablation}": ablation for ablation in ablations}
    ranked = [index for index, special in enumerate(prompt.special) if not special]
    for name in missing:
        started = time.process_time()
        if name in left_out:
            scores = torch.tensor(truth[left_out[name]], dtype=torch.float64)
            cost = {"forwards": 1 + len(ranked), "backwards": 0}
        else:
            scored = as_method(methods[name].line).score(model, prompt, truth["target"])
            scores = scored.scores[ranked].double().abs()
            cost = {"forwards": scored.forwards, "backwards": scored.backwards}
        row = {"data": data, "passage": passage, "method": name, **cost, "seconds": time.process_time() - started}
        store.agreement.append(row | agreement(scores, truth, ablations))


def agreement(
    scores: torch.Tensor, truth: Mapping[str, Any], ablations: Sequence[str] = ABLATIONS
) -> dict[str, float | None]:
    """Rank agreement with the truth of each ablation: plain, given position, and whether the strongest token is hit."""
    positions = torch.arange(len(scores), dtype=torch.float64)
    values: dict[str, float | None] = {}
    for ablation in ablations:
        effects = torch.tensor(truth[ablation], dtype=torch.float64)
        pairs = {
            "spearman": correlation(scores, effects),
            "partial": partial_correlation(scores, effects, positions),
            "top5": top_hit(scores, effects),
        }
        values |= {f"{what}, {ablation}": finite(value) for what, (value, _) in pairs.items()}
    return values


def measure_removal(model: Any, store: Store, data: str, passage: int, text: Any, names: Sequence[str]) -> None:
    """Every method's comprehensiveness and sufficiency on one whole passage, its tokens taken out."""
    from lens_scopes.evaluation.evaluator import Evaluator

    missing = [
        name
        for name in names
        if name in METHODS and METHODS[name].removal and (data, passage, name) not in store.removal
    ]
    if not missing:
        return
    metrics = ["comprehensiveness", "sufficiency"]
    evaluator = Evaluator(model, [METHODS[name].line for name in missing], metrics, ["remove"])
    _, measurements = evaluator.measure(evaluator.passage(prompt_of(model, text).token_ids), None, index=passage)
    by_line = {METHODS[name].line: name for name in missing}
    rows: dict[str, dict[str, Any]] = {name: {"data": data, "passage": passage, "method": name} for name in missing}
    for item in measurements:
        rows[by_line[item.method]][item.metric] = finite(item.value)
    for row in rows.values():
        store.removal.append(row)


def save(store: Store, results: Path) -> dict[str, Any]:
    """Sums up what is measured and saves the record."""
    about = store.truth.path.parent / "about.json"
    if not about.is_file():
        raise FileError(f"nothing has been measured in {about.parent}; leave --measured out.")
    record = {
        "study": "leaderboard",
        "settings": {
            "chosen on": f"passages 0 to {CHOSEN_ON - 1} of each data set, which are left out here",
            "agreement": f"last {LAST_TOKENS} tokens; the model's own top token; replaced by the prompt's mean or zero",
            "comprehensiveness, sufficiency": "whole text; the top token's probability; tokens taken out",
            "seed": 0,
        },
        **json.loads(about.read_text(encoding="utf-8")),
        "findings": findings(store.truth.rows, store.agreement.rows, store.removal.rows),
    }
    results.mkdir(parents=True, exist_ok=True)
    content = json.dumps(shortened_floats(record), ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
    write_whole(results / "leaderboard.json", content)
    return load_record(results, "leaderboard")


def main(
    lambada: Annotated[Path, typer.Argument(help="LAMBADA passages: a JSON list of texts.")],
    iwslt: Annotated[Path, typer.Argument(help="IWSLT lines: a JSON list of texts.")],
    passages: Annotated[
        int, typer.Option(help="How many passages of each, from the first that no setting was chosen on.")
    ] = PASSAGES,
    only: Annotated[
        list[str] | None, typer.Option(help="One method by its name here or in evaluate, several times.")
    ] = None,
    part: Annotated[list[str] | None, typer.Option(help="agreement or removal; by default both.")] = None,
    seconds: Annotated[float, typer.Option(help="Begin no passage after so many seconds.")] = math.inf,
    folder: Annotated[Path, typer.Option(help="Where measurements are kept.")] = MEASURED / "leaderboard",
    measured: Annotated[bool, typer.Option("--measured", help="Sum up what is there, and measure nothing.")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Print the tables of the documents from the saved results.")
    ] = False,
    draw_figures: Annotated[bool, typer.Option("--draw", help="Draw the figure and the page too.")] = False,
) -> None:
    """Measure methods, and save their statistics into analyses/results/leaderboard.json."""
    if table:
        record = load_record(RESULTS, "leaderboard")
        typer.echo("\n".join([*short_markdown(record), "", *markdown(record)]))
        return
    every = {**{name: entry.line for name, entry in METHODS.items()}, **{name: name for name in LEFT_OUT}}
    names = [name for name, line in every.items() if not only or name in only or line in only]
    unknown = [name for name in only or [] if name not in every and name not in every.values()]
    if unknown:
        raise typer.BadParameter(f"no method is called {unknown[0]!r}; the methods are {', '.join(every)}")
    parts = part or ["agreement", "removal"]
    if wrong := [name for name in parts if name not in ("agreement", "removal")]:
        raise typer.BadParameter(f"a part is agreement or removal; got {wrong[0]!r}")
    store = Store.of(folder)
    if not measured:
        measure(store, {"lambada": lambada, "iwslt": iwslt}, passages, names, parts, seconds)
    record = save(store, RESULTS)
    for line in summary(record):
        typer.echo(line)
    if draw_figures:
        from draw import draw_study

        for path in draw_study("leaderboard", RESULTS, FIGURES):
            typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
