"""The same scope through all, early, middle and late layers: figures/through_layers.png, .svg and .json.

python analyses/through_layers.py
"""

from __future__ import annotations

import json
from pathlib import Path

import lens_scopes as ls
from lens_scopes.attribution import write_whole
from lens_scopes.views.figure_strips import strips_figure
from lens_scopes.views.figure_style import saved

PROMPT = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
FIGURES = Path(__file__).resolve().parent.parent / "figures"


def main() -> None:
    model = ls.load_model()
    n_layers = model.cfg.n_layers
    third = n_layers // 3
    paths = {"all layers": None}
    for name, first in (("early", 0), ("middle", third), ("late", 2 * third)):
        last = n_layers - 1 if name == "late" else first + third - 1
        paths[f"{name}, {first}–{last}"] = ls.Layers(first, last)
    strips = {label: ls.attribute(model, PROMPT, ls.Fisher(), through=path) for label, path in paths.items()}
    for kind in ("png", "svg"):
        write_whole(FIGURES / f"through_layers.{kind}", saved(lambda: strips_figure(strips), kind, 200))
    record = {
        label: {"top": att.top(5), "contract": att.contract, "settings": att.settings, "versions": att.versions}
        for label, att in strips.items()
    }
    text = json.dumps(record, ensure_ascii=False, indent=1)
    write_whole(FIGURES / "through_layers.json", text.encode("utf-8") + b"\n")
    for label, att in strips.items():
        print(f"{label:15}", ", ".join(f"{token!r} {score:.3g}" for _, token, score in att.top(4)))


if __name__ == "__main__":
    main()
