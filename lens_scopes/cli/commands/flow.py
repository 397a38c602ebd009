"""`lens-scopes flow`: how much named spans of a prompt could tell through what is predicted after them, and the
calibration of a threshold for it on labelled prompts."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.cli.options.calibration import RECALL, SUFFIXES, CalibrationOptions
from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import RESULT_SUFFIXES, ResultOptions, check_files
from lens_scopes.cli.options.spans import SpanOptions
from lens_scopes.cli.options.spec import PathOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import LensScopesError

if TYPE_CHECKING:
    from lens_scopes.results.flow import InformationFlow

ABOVE_THRESHOLD = 1

_PANEL = "Information flow"
_MEASURES = ("bound", "channel", "fisher")


@with_option_groups
def flow(
    prompt: PromptOptions,
    spans: SpanOptions,
    choices: PathOptions,
    model: ModelOptions,
    output: ResultOptions,
    calibration: CalibrationOptions,
    answer: Annotated[
        str | None,
        typer.Option(
            help="Explain the predictions of this answer's tokens after the prompt, and sum the values: a text, "
            "leading space included, or ids (#12#34).",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    generate: Annotated[int, typer.Option(help="Generate N tokens as the answer.", min=0, rich_help_panel=_PANEL)] = 0,
    sigma: Annotated[
        float,
        typer.Option(
            help="Size of the noise, relative to the median embedding norm of the vocabulary.",
            rich_help_panel=_PANEL,
        ),
    ] = 0.1,
    rank: Annotated[
        int | None,
        typer.Option(
            help="Leading directions per prediction. By default all of them up to d_model 128, otherwise 16.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Random directions for the remainder beyond --rank. By default 16.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=_PANEL)] = 0,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="Exit with status 1 if any span's value, summed over the answer, exceeds NATS. A high value "
            "means that small changes to the span would move the predictions, not that the answer repeats the span; a "
            "low value does not prove a secret safe. --calibrate tells how often a threshold errs.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        str,
        typer.Option(
            metavar="|".join(_MEASURES),
            help="Value that --fail-above checks; fisher is the bound's part along the leading direction.",
            rich_help_panel=_PANEL,
        ),
    ] = "bound",
) -> None:
    """Bound the information, in nats, that a span (a secret, a retrieved document) passes to the next predictions.

    Exit status: 0, 1 when --fail-above is exceeded (the result is still written), 2 for wrong input.

    Examples:
        lens-scopes flow --file prompt.txt --span secret=swordfish --generate 8
        lens-scopes flow --chat chat.json --generate 2 --fail-above 0.01 --out flow.html
        lens-scopes flow --calibrate labelled.jsonl --generate 2 --out calibration.png
    """
    # What can be refused without the model is refused before it is loaded.
    calibration.check(
        {
            "TEXT": prompt.text,
            "--file": prompt.file,
            "--chat": prompt.chat,
            "--position": prompt.position != -1,
            "--span": spans.span,
            "--characters": spans.characters,
            "--tokens": spans.tokens,
            "--answer": answer,
            "--fail-above": fail_above is not None,
            "--contract": output.contract,
        }
    )
    _check_threshold(fail_above, measure)
    model.check()
    check_files(output.out or [], SUFFIXES if calibration.calibrate else RESULT_SUFFIXES)
    text, named = ("", {}) if calibration.calibrate else (prompt.read(), spans.read())
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.flow import information_flow
        from lens_scopes.results.flow import check_sigma
        from lens_scopes.scopes.text.values import read_text_or_ids

        spec = choices.spec()
        check_sigma(sigma)
        settings: dict[str, Any] = {
            "generate": generate,
            "sigma": sigma,
            "rank": rank,
            "samples": samples,
            "seed": seed,
            "through": spec.through,
            "matmul_dtype": spec.matmul_dtype,
            "memory": spec.memory,
        }
        if calibration.calibrate is not None:
            result = _calibrate(calibration.calibrate, calibration.recall, model, settings)
        else:
            loaded = model.load()
            with progress_bar("Backpropagating") as progress:
                result = information_flow(
                    loaded,
                    text,
                    named or None,
                    answer=None if answer is None else read_text_or_ids(answer),
                    position=prompt.position,
                    progress=progress,
                    **settings,
                )
            choices.remark(result)
    # The result is delivered before a threshold can end the command.
    output.deliver(result)
    if fail_above is not None:
        _fail_above(result, fail_above, measure)


def _calibrate(file: Path, recall: float | None, model: ModelOptions, settings: dict[str, Any]) -> Any:
    """The calibration of the gate on labelled prompts, which are checked before the model is loaded."""
    from lens_scopes.evaluation.calibration.calibrate import calibrate_flow, check_recall
    from lens_scopes.evaluation.calibration.cases import read_cases

    recall = check_recall(RECALL if recall is None else recall)
    cases = read_cases(file)
    loaded = model.load()
    with progress_bar("Calibrating") as progress:
        return calibrate_flow(loaded, cases, recall=recall, progress=progress, **settings)


def _check_threshold(nats: float | None, measure: str) -> None:
    if measure not in _MEASURES:
        raise LensScopesError(f"--measure takes {', '.join(_MEASURES[:-1])} or {_MEASURES[-1]}; got {measure!r}.")
    if nats is not None and not nats >= 0:
        raise LensScopesError(f"--fail-above takes a number of nats, at least 0; got {nats:g}.")


def _fail_above(result: InformationFlow, nats: float, measure: str) -> None:
    """Ends with status 1, a line for each span on standard error, when a span's value is not at most `nats`."""
    above = result.above(nats, measure)  # pyright: ignore[reportArgumentType]
    for item in above:
        value = getattr(item, measure)
        print(f"lens-scopes: {value:.4g} nats ({measure}) flow from {item.name!r}, above {nats:g}.", file=sys.stderr)
    if above:
        raise typer.Exit(ABOVE_THRESHOLD)
