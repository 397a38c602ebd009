"""Predicted against actual changes of what was ablated or patched: the table with bars, and the scatter plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lens_scopes.views.charts import Axis, axis_of, label_points
from lens_scopes.views.words.changes import Change
from lens_scopes.views.words.numbers import number, short_number
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    axis,
    bar_cell,
    columns,
    note,
    number_cell,
    table,
    text_cell,
)


@dataclass(frozen=True)
class Comparison:
    """What was done for real, beside what was predicted of it.

    Attributes:
        noun: what was ablated or patched, in the singular.
        unit: of the changes.
        changes: in the order of the table.
        links: ids that names lead to.
        marks: the labels of the dot and of the square in the scatter plot.
        more: further columns after the name: heading and one text each.
    """

    noun: str
    unit: str
    changes: Sequence[Change]
    links: Mapping[str, str]
    marks: tuple[str, ...]
    more: Sequence[tuple[str, Sequence[str]]] = field(default_factory=tuple)

    def blocks(self, text: str) -> list[Block]:
        """A note that begins with `text`, and the table beside the scatter plot."""
        finite = [change for change in self.changes if change.is_finite]
        scale = axis_of([value for change in finite for value in (change.predicted, change.actual)])
        warped = " Bars and axes are on a square-root scale." if scale.square_root else ""
        about = f"{text}: predicted from the gradient, and as it really was. The buttons in the headings sort.{warped}"
        return [note(about), columns([self._table(scale)], [self._scatter(scale, finite)], even=True)]

    def _table(self, scale: Axis) -> Block:
        middle = scale.low < 0
        rows = [
            [
                text_cell(change.name, change.name, "component", self.links.get(change.name, "")),
                *(text_cell(texts[row], texts[row]) for _, texts in self.more),
                number_cell(number(change.predicted), change.predicted),
                bar_cell(scale.share(change.predicted), middle=middle),
                number_cell(number(change.actual), change.actual),
                bar_cell(scale.share(change.actual), middle=middle),
            ]
            for row, change in enumerate(self.changes)
        ]
        names = [(self.noun, "text"), *((heading, "text") for heading, _ in self.more)]
        names += [("predicted", "number"), ("", ""), ("actual", "number"), ("", "")]
        return table("Predicted and actual changes", names, rows)

    def _scatter(self, scale: Axis, changes: Sequence[Change]) -> Block:
        named = dict(label_points(scale, [(change.predicted, change.actual) for change in changes]))
        ticks = [(value, short_number(value)) for value in scale.ticks()]
        kind_of_scale = "root" if scale.square_root else "linear"
        warped = " (square-root scale)" if scale.square_root else ""
        across = axis(f"predicted change, {self.unit}{warped}", scale.low, scale.high, ticks, kind_of_scale)
        return {
            "type": "chart",
            "label": f"Predicted against actual change of {len(changes)} {self.noun}s; the numbers are in the table",
            "x": across,
            "y": across | {"label": "actual change"},
            "diagonal": True,
            "note": "dashed: predicted = actual",
            "marks": list(zip(self.marks, ("dot", "square"), strict=False)),
            "points": [
                {
                    "x": change.predicted,
                    "y": change.actual,
                    "shape": "square" if change.apart else "dot",
                    "title": f"{change.name}: predicted {number(change.predicted)}, actual {number(change.actual)}",
                    "link": self.links.get(change.name, ""),
                    "name": change.name if i in named else "",
                    "side": named.get(i, 1),
                }
                for i, change in enumerate(changes)
            ],
        }
