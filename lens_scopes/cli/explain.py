"""What the commands that explain a prediction have in common: options → Attribution → files and views."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from lens_scopes.cli.options.companions import CompanionOptions
from lens_scopes.cli.options.memory import MemoryOptions
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.objective import ObjectiveOptions
from lens_scopes.cli.options.output import OutputOptions
from lens_scopes.cli.options.path import PathOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.sites import SiteOptions
from lens_scopes.cli.progress import progress_bar

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


def explain(
    prompt: PromptOptions,
    objective: ObjectiveOptions,
    sites: SiteOptions,
    paths: PathOptions,
    model: ModelOptions,
    memory: MemoryOptions,
    output: OutputOptions,
    companions: CompanionOptions,
    layers: bool | str,
) -> None:
    """Computes and delivers what the options describe. What can be refused without the model is refused before it is
    loaded.

    Raises:
        LensScopesError: for any option that does not fit.
    """
    output.check()
    companions.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.attribute import attribute
        from lens_scopes.engine.model import check_matmul_dtype
        from lens_scopes.scopes.objectives import Objective
        from lens_scopes.scopes.points import as_points
        from lens_scopes.scopes.readouts import as_readout

        explained = objective.objective() if companions.add else objective.explanation()
        through = paths.path()
        readout = None if sites.readout is None else as_readout(sites.readout)
        points = as_points(sites.points)
        memory.check()
        matmul_dtype = check_matmul_dtype(sites.matmul_dtype)
        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            attribution = attribute(
                loaded,
                text,
                explained,
                position=prompt.position,
                layers=layers,
                sites=sites.site or (),
                at=sites.at,
                through=through,
                readout=readout,
                points=points,
                memory=memory.memory,
                matmul_dtype=matmul_dtype,
                progress=progress,
            )
        others: dict[str, Any] = {}
        if isinstance(explained, Objective):
            others = companions.compute(loaded, text, explained, prompt.position, through, memory.memory)
    memory.remark(attribution, *others.values())
    _remark_on_space(attribution)
    output.deliver(attribution, others)


def _remark_on_space(attribution: Attribution) -> None:
    """In most vocabularies "Paris" and " Paris" are two tokens, and a shell makes it easy to name the wrong one."""
    if attribution.target is None:
        return
    given = attribution.target
    for likely in attribution.prediction.top:
        if likely.token == f" {given.token}" and likely.probability > given.probability:
            print(
                f"lens-scopes: note: the target {given.token!r} has no space before it and the probability "
                f"{given.probability:.2g}; {likely.token!r} has {likely.probability:.2g}.",
                file=sys.stderr,
            )
