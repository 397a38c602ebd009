"""Calibrates the gate `lens-scopes flow --fail-above`: a threshold with its error rates on held-out cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from lens_scopes.attribution.flow import information_flow
from lens_scopes.attribution.provenance import package_versions
from lens_scopes.engine.backward import Progress
from lens_scopes.engine.model import MatmulDtype, ModelLike, one_at_a_time
from lens_scopes.errors import VALIDATED, EvaluationError, LensScopesError, check_seed, whole_number
from lens_scopes.evaluation.calibration.cases import CasesLike, LabelledPrompt, group_of, read_cases
from lens_scopes.evaluation.statistics.rates import Interval, Rate, choose_threshold, held_out_alarms, rate, roc_areas
from lens_scopes.models.load import model_record
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.results.base import Viewable
from lens_scopes.results.flow import MEASURES, InformationFlow, Sigma
from lens_scopes.results.storage.record import plain
from lens_scopes.results.storage.writing import data_frame
from lens_scopes.scopes.paths import PathLike

if TYPE_CHECKING:
    import pandas

Recall: TypeAlias = Annotated["float", VALIDATED]

CONTROL = "confidence"
_CHANCE = 0.5
_SPAN = "span"
_SETTINGS = ("sigma", "rank", "samples", "seed", "path", "matmul_dtype")


@dataclass(frozen=True)
class CalibrationCase:
    """One labelled prompt, measured.

    Attributes:
        place: where it stands: "cases.jsonl line 3".
        group: what it was held out with.
        leaks: its label.
        values: by measure: bound, channel and fisher of its span, summed over the predictions, in nats; confidence, the
            probability of the model's top token at the first prediction.
        held_out: by measure, whether the value is above the threshold that the other groups choose.
    """

    place: str
    group: str
    leaks: bool
    values: dict[str, float]
    held_out: dict[str, bool]


@dataclass(frozen=True)
class CalibratedMeasure:
    """What one measure can tell.

    Attributes:
        name: bound, channel, fisher, or confidence, which knows no span and is there to compare with.
        threshold: chosen by all cases, in nats; of confidence a probability.
        recall: the share of leaks above the threshold, where cases of other groups chose the threshold of each case.
        false_alarms: the share of the other cases above it, judged alike.
        area: under the ROC curve, over all cases: 0.5 is chance.
        over_confidence: the area minus that of confidence.
    """

    name: str
    threshold: float
    recall: Rate
    false_alarms: Rate
    area: Interval
    over_confidence: Interval


@dataclass(frozen=True, repr=False)
class FlowCalibration(Viewable):
    """Thresholds for the gate on information flow, with their error rates, from `calibrate_flow`.

    `figure`, `show` and `to_html` present it; `to_dict` and `to_pandas` give plain values.

    Attributes:
        name: of the file of cases.
        cases: every labelled prompt with its values.
        measures: bound, channel, fisher and confidence.
        recall: the share of leaks that a threshold had to catch among the cases that chose it.
        settings: those of `information_flow`; generate is None where cases differ in it.
        model: name, revision, backend, dtype, processing flags and sizes of the model.
        versions: versions of the packages that computed it.
        warnings: what a reader must know before using a threshold.

    Example:
        >>> countries = [("France", True), ("Italy", True), ("Spain", False), ("Peru", False)]
        >>> cases = [{"prompt": f"The capital of {name} is", "span": name, "leaks": leaks} for name, leaks in countries]
        >>> calibration = ls.calibrate_flow(model, cases, rank=2, samples=2)
        >>> calibration.groups, calibration["fisher"].threshold >= 0
        (['France', 'Italy', 'Spain', 'Peru'], True)
    """

    name: str
    cases: tuple[CalibrationCase, ...]
    measures: tuple[CalibratedMeasure, ...]
    recall: float
    settings: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str]

    def __repr__(self) -> str:
        parts = (
            f"{item.name} > {item.threshold!r}: recall {item.recall.share:.2f}, "
            f"false alarms {item.false_alarms.share:.2f}, area {item.area.value:.2f}"
            for item in self.measures
        )
        return f"FlowCalibration({len(self.cases)} cases; {'; '.join(parts)})"

    @property
    def groups(self) -> list[str]:
        """The groups, each held out in turn, in the order of the cases."""
        return list(dict.fromkeys(case.group for case in self.cases))

    @property
    def leaks(self) -> list[bool]:
        """The label of every case."""
        return [case.leaks for case in self.cases]

    def values(self, measure: str) -> list[float]:
        """One measure of every case.

        Raises:
            EvaluationError: for a measure of another name.
        """
        self[measure]
        return [case.values[measure] for case in self.cases]

    def __getitem__(self, name: str) -> CalibratedMeasure:
        for item in self.measures:
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self.measures)
        raise EvaluationError(f"no measure is called {str(name)[:60]!r}; there are {known}.")

    @property
    def best(self) -> CalibratedMeasure:
        """The measure of the span with the largest area under the ROC curve."""
        return max((item for item in self.measures if item.name != CONTROL), key=lambda item: item.area.value)

    @property
    def separates(self) -> bool:
        """Whether the best measure of the span tells leaks from the other cases better than chance does."""
        return self.best.area.low > _CHANCE

    @property
    def verdict(self) -> str:
        """Whether the best measure separates the cases, in one sentence."""
        best, control = self.best, self[CONTROL]
        area = f"area under the ROC curve {_interval_text(best.area)}"
        if not self.separates:
            return (
                "No measure of the span tells leaks from the other cases better than chance does: no threshold makes a "
                f"gate of it. The best is {best.name}, {area}."
            )
        if best.over_confidence.low <= 0:
            return (
                f"{best.name} separates the cases ({area}), but not clearly better than the model's bare confidence, "
                f"which knows no span ({control.area.value:.2f})."
            )
        return f"{best.name} separates the cases best: {area}."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {**plain(self), "best": self.best.name, "verdict": self.verdict}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per case: place, group, leaks, and each measure with whether it was above the threshold held out."""
        return data_frame(
            [
                {"place": case.place, "group": case.group, "leaks": case.leaks, **case.values}
                | {f"{name} above": above for name, above in case.held_out.items()}
                for case in self.cases
            ]
        )


@one_at_a_time
def calibrate_flow(
    model: ModelLike,
    cases: CasesLike,
    *,
    recall: Recall = 0.9,
    generate: int = 0,
    sigma: Sigma = 0.1,
    rank: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    through: PathLike = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> FlowCalibration:
    """Chooses the threshold of a gate on information flow from labelled prompts, and measures how often it errs.

    The threshold of a measure is the one above which at least the share `recall` of the leaks lies, with the fewest
    false alarms. Its error rates are measured on cases that did not choose it: each group of cases is judged by the
    threshold that all other groups choose. Rates have 95% intervals after Clopper and Pearson, for as many cases as
    the groups are worth, and areas under the ROC curve 95% intervals over bootstrap samples of groups.

    Measured are the bound, the channel and Fisher Scope of rank 1 on the span, all at σ and summed over the predictions
    of the answer. Beside them stands the model's confidence, the probability of its top token at the first prediction:
    it knows no span, and a measure that is not better detects no leak.

    Args:
        model, sigma, rank, samples, through, memory, matmul_dtype: as for `information_flow`. A threshold holds for
            the settings it was chosen with.
        cases: a JSONL file, or a list of mappings: prompt or chat; span or characters; leaks; and where wanted generate
            and group. By default cases with the same text in the span are one group.
        recall: the share of leaks to catch, above 0 and at most 1.
        generate: tokens that the model generates after a prompt that does not name a number of its own; 0 measures the
            one next prediction.
        seed: of the random directions and the bootstrap.
        progress: called with (cases done, cases in all).

    Returns:
        A FlowCalibration.

    Raises:
        EvaluationError: for a case that is malformed, cases of one kind alone, and a kind of which all cases are in one
            group.
        LensScopesError: FileError for a file that cannot be read; others as for `information_flow`, with the place of
            the case.

    Source: thresholds and rates as for any detector; intervals after Korn and Graubard, Survey Methodology 24 (1998).

    Example:
        >>> countries = [("France", True), ("Italy", True), ("Spain", False), ("Peru", False)]
        >>> cases = [{"prompt": f"The capital of {name} is", "span": name, "leaks": leaks} for name, leaks in countries]
        >>> calibration = ls.calibrate_flow(model, cases, rank=2, samples=2)
        >>> [item.name for item in calibration.measures], calibration["bound"].recall.n
        (['bound', 'channel', 'fisher', 'confidence'], 2)
    """
    recall, seed = check_recall(recall), check_seed(seed)
    generate = whole_number(generate, "the number of tokens to generate", EvaluationError)
    source = read_cases(cases)
    items = source.items

    # All prompts are read before the first is measured, so that a wrong one is told at once.
    prompts = [_read(model, case) for case in items]
    groups = [group_of(case, prompt, prompt.spans[_SPAN]) for case, prompt in zip(items, prompts, strict=True)]
    leaks = [case.leaks for case in items]
    _check_groups(leaks, groups)

    # Every case is measured with the same settings.
    settings: dict[str, Any] = {"sigma": sigma, "rank": rank, "samples": samples, "seed": seed}
    options = {**settings, "through": through, "memory": memory, "matmul_dtype": matmul_dtype}
    lengths = [generate if case.generate is None else case.generate for case in items]
    flows: list[InformationFlow] = []
    for case, prompt, length in zip(items, prompts, lengths, strict=True):
        with _at(case):
            flows.append(information_flow(model, prompt, {_SPAN: prompt.spans[_SPAN]}, generate=length, **options))
        if progress is not None:
            progress(len(flows), len(items))
    columns = {measure: [_value(flow, measure) for flow in flows] for measure in (*MEASURES, CONTROL)}

    # Thresholds, and the error rates of those that others choose.
    held_out = {measure: held_out_alarms(column, leaks, groups, recall) for measure, column in columns.items()}
    measures = _calibrated_measures(columns, held_out, leaks, groups, recall, seed)
    result = FlowCalibration(
        name=source.name,
        cases=tuple(
            CalibrationCase(
                case.place,
                groups[index],
                case.leaks,
                {measure: column[index] for measure, column in columns.items()},
                {measure: bool(above[index]) for measure, above in held_out.items()},
            )
            for index, case in enumerate(items)
        ),
        measures=measures,
        recall=recall,
        settings={
            **{key: flows[0].settings[key] for key in _SETTINGS},
            "generate": lengths[0] if len(set(lengths)) == 1 else None,
        },
        model=asdict(model_record(model)),
        versions=package_versions(),
        warnings=[],
    )
    result.warnings.extend(_warnings(result))
    return result


def check_recall(recall: object) -> float:
    """A share of leaks to catch.

    Raises:
        EvaluationError: for what is none.
    """
    if isinstance(recall, (int, float)) and not isinstance(recall, bool) and 0 < recall <= 1:
        return float(recall)
    raise EvaluationError(f"recall is the share of leaks to catch, above 0 and at most 1; got {str(recall)[:60]}.")


@contextmanager
def _at(case: LabelledPrompt) -> Iterator[None]:
    """Errors within say which case they are about."""
    try:
        yield
    except LensScopesError as error:
        raise type(error)(f"{case.place}: {error}") from error


def _read(model: ModelLike, case: LabelledPrompt) -> Prompt:
    with _at(case):
        return read_prompt(model, case.prompt, spans={_SPAN: case.span})


def _check_groups(leaks: Sequence[bool], groups: Sequence[str]) -> None:
    """Raises EvaluationError where leaving out one group would leave cases of one kind alone."""
    for kind, noun in ((True, "that leak"), (False, "that do not leak")):
        of_kind = {group for group, label in zip(groups, leaks, strict=True) if label is kind}
        if len(of_kind) == 1:
            [group] = of_kind
            raise EvaluationError(
                f"all cases {noun} are in one group, {group[:60]!r}, and none are left to judge it by; label some "
                "of another one."
            )


def _value(flow: InformationFlow, measure: str) -> float:
    """What a case has of one measure: of its span, or the model's confidence in its first prediction."""
    [total] = flow.totals()
    return flow.predicted[0].probability if measure == CONTROL else getattr(total, measure)


def _calibrated_measures(
    columns: Mapping[str, list[float]],
    held_out: Mapping[str, Any],
    leaks: Sequence[bool],
    groups: Sequence[str],
    recall: float,
    seed: int,
) -> tuple[CalibratedMeasure, ...]:
    names = list(columns)
    areas = roc_areas(list(columns.values()), leaks, groups, seed=seed)

    def held_out_rate(measure: str, kind: bool) -> Rate:
        rows = [index for index, label in enumerate(leaks) if label is kind]
        return rate(held_out[measure][rows], [groups[index] for index in rows])

    # The threshold is chosen from all cases; its rates are those of thresholds that each group had no part in.
    return tuple(
        CalibratedMeasure(
            name=measure,
            threshold=choose_threshold(columns[measure], leaks, recall),
            recall=held_out_rate(measure, True),
            false_alarms=held_out_rate(measure, False),
            area=areas[row][row],
            over_confidence=areas[row][names.index(CONTROL)] if measure != CONTROL else Interval(0.0, 0.0, 0.0),
        )
        for row, measure in enumerate(names)
    )


def _warnings(result: FlowCalibration) -> list[str]:
    warnings: list[str] = []
    if not result.separates or result.best.over_confidence.low <= 0:
        warnings.append(result.verdict)
    short = [item.name for item in result.measures if item.recall.high < result.recall]
    if short:
        warnings.append(
            f"on held-out cases {', '.join(short)} catch clearly fewer leaks than the {result.recall:.0%} asked for: "
            "the groups differ too much for one threshold."
        )
    return warnings


def _interval_text(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
