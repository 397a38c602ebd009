"""`lens-scopes attribute`: influence of every token on one prediction."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

from lens_scopes.cli.options.companions import CompanionOptions
from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.output import OutputOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.spec import SpecOptions
from lens_scopes.cli.progress import progress_bar


@with_option_groups
def attribute(
    prompt: PromptOptions,
    choices: SpecOptions,
    model: ModelOptions,
    output: OutputOptions,
    companions: CompanionOptions,
) -> None:
    """Compute the influence of every token on one prediction, or on a whole answer.

    Examples:
        lens-scopes attribute "The Eiffel Tower is in the city of"
        lens-scopes attribute "The Eiffel Tower is in the city of" --target " Paris" --layers --out paris.html
        lens-scopes attribute --file story.txt --generate 20 --group sentence
    """
    # What can be refused without the model is refused before it is loaded.
    output.check()
    model.check()
    companions.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        spec = choices.spec()
        from lens_scopes.attribution.attribute import attribute

        companions.check_spec(spec)
        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            attribution = attribute(loaded, text, spec, position=prompt.position, progress=progress)
        others = companions.compute(loaded, text, spec, prompt.position, attribution)
    choices.remark(attribution, *others.values())
    output.deliver(attribution, others)
