"""Methods × metrics × ablations over a data set, resumable and shared between processes."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lens_scopes.engine.backward import Progress
from lens_scopes.errors import EvaluationError, LensScopesError, PromptError, whole_number
from lens_scopes.evaluation.passages.read import Passage, PassagesLike, read_passages
from lens_scopes.evaluation.passages.selection import PassagePrompt, Selection, TooLong, check_target, read_passage
from lens_scopes.evaluation.processes import Process, this_process
from lens_scopes.evaluation.protocol import ProtocolLike, as_protocol
from lens_scopes.evaluation.storage.folder import ResultFolder
from lens_scopes.evaluation.storage.records import FAILED, MEASURED, TOO_LONG, Measurement, PassageRecord
from lens_scopes.evaluation.storage.results import load_results
from lens_scopes.prompts.tokens import check_model
from lens_scopes.results.storage.writing import file_path

if TYPE_CHECKING:
    import pandas

    from lens_scopes.models.load import Model
    from lens_scopes.prompts.prompt import Prompt

_CORPUS = 256  # first passages of a data set, from which a corpus mean and resampled tokens come


@runtime_checkable
class EvaluatorLike(Protocol):
    """What the run needs of an evaluator."""

    needs_other: bool

    def passage(self, passage: Any) -> Prompt: ...
    def measure(
        self,
        prompt: Prompt,
        target: int | None,
        *,
        index: int,
        answer: tuple[int, ...] | int | None = None,
        other: Sequence[int] | None = None,
        within: tuple[int, int] | None = None,
    ) -> tuple[dict[str, Any], list[Measurement]]: ...
    def signature(self) -> dict[str, Any]: ...


def evaluate(
    model: Model,
    passages: PassagesLike,
    *,
    methods: Sequence[Any] | None = None,
    metrics: Sequence[str],
    ablations: Sequence[str] = ("zero",),
    protocol: ProtocolLike = None,
    out: str | Path | None = None,
    limit: int | None = None,
    skip: int = 0,
    target: str | None = None,
    truncate: bool = False,
    answer_field: str | None = None,
    generate: int = 0,
    by: str = "sentence",
    seed: int = 0,
    draws: int = 4,
    field: str | None = None,
    other_field: str | None = None,
    within_field: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    retry: bool = False,
    mixed_commits: bool = False,
    progress: Progress | None = None,
) -> pandas.DataFrame:
    """Measures the faithfulness of attributions: ablates tokens and compares the effects with the scores.

    Each passage is scored by every method, and every metric judges the scores under every ablation. A passage's numbers
    are saved before the next passage begins. The same call continues where an earlier one stopped; a larger `limit` or
    another `skip` adds passages. Several processes (`accelerate launch`, `torchrun`) that share the folder split the
    passages. The numbers depend on `seed` and the passage's index alone.

    Args:
        model: a HookedTransformer or TransformerBridge.
        passages: a file, the name of a data set, or texts, pairs of a text and another prompt, or mappings with the
            fields; see `read_passages`. Another prompt of as many tokens is for the ablation "prompt", and for methods
            measured from it: "semantic+dot-prompt", "semantic+dot+path-prompt@8", "loo-kl@prompt".
        methods: names such as "fisher@8", objectives, Specs, or pairs (name, scores or function); see `as_method`. By
            default the protocol's own.
        metrics: names of METRICS, such as "aopc"; `lens-scopes evaluate --help` describes all.
        ablations: names of ABLATIONS: what ablated tokens are replaced by. Every metric that needs an ablation is
            measured under each. Those that use other passages read the first 256 of the data set.
        protocol: the conventions: "arXiv:2601.16407" for those of the paper's public code, or a `Protocol`. By default
            this package's own.
        out: the result folder. By default nothing is kept on the disk.
        limit: the number of passages to measure. By default all.
        skip: the number of passages to skip at the beginning.
        target: "last": the model reads a passage without its last token, which tells whether the prediction is correct;
            "own": it reads the whole passage. Methods explain the model's own top token, unless the protocol says
            otherwise. By default "last"; with answers the whole passage is read.
        truncate: cut the beginning of passages that exceed the context window. By default they are skipped and counted.
        answer_field: the field or column that holds an answer after each passage. What methods explain is then summed
            over the predictions of the answer's tokens, and metrics measure log P(answer | prompt) and the KL summed
            over them; only the passage's tokens are ranked and ablated. Methods that know of no prediction ("random",
            "attention-rollout") score the passage as it is.
        generate: explain this many tokens of the model's own continuation as the answer.
        by: what metrics of segments ("lds", "top-k-drop") leave out as a whole: "token", or as for `Attribution.group`
            "word", "line", "sentence", "paragraph" or "turn".
        seed: random seed; the global generator is not touched.
        draws: samples averaged where an ablation is random.
        field: the field or column that holds the text. By default "text".
        other_field: the field or column that holds another prompt for each passage. By default none is read.
        within_field: the field or column that holds the eligible part of each passage, such as its document: a text
            that occurs once in the passage, or (start, stop) in tokens. Those tokens alone are ranked, ablated and
            parted into segments; a question stays. By default all tokens but special ones are eligible. An answer's own
            tokens never are: without some of them it would be another answer.
        split: the split of a data set that has several.
        subset: the configuration of a data set that has several.
        retry: measure passages again that failed before.
        mixed_commits: continue a folder that another commit of this package began; reports say so.
        progress: called with (done, total) passages of this process.

    Returns:
        A row for each passage × method × metric × ablation (× fraction of a curve), as `load_results` reads them.

    Raises:
        EvaluationError: for an unknown method, metric, ablation or protocol, a folder of another evaluation or commit,
            and when no passage could be measured.
        FileError: when passages cannot be read or results cannot be written.

    Example:
        >>> texts = ["The capital of France is Paris", "The capital of Italy is Rome"]
        >>> rows = ls.evaluate(model, texts, methods=["fisher", "random"], metrics=["aopc"], ablations=["mean"])
        >>> rows[["passage", "method", "metric", "ablation"]].values.tolist()[:2]
        [[0, 'fisher', 'aopc', 'mean'], [0, 'random', 'aopc', 'mean']]

    Source: AOPC and the agreement with leave-one-out follow Jacobian Scopes (arXiv:2601.16407), comprehensiveness and
    sufficiency ERASER (arXiv:1911.03429), infidelity arXiv:1901.09392, and randomization arXiv:1810.03292.
    """
    # What is asked for, checked before anything is measured.
    check_model(model)
    if out is not None:
        file_path(out)
    for what, switch in (("truncate", truncate), ("retry", retry), ("mixed_commits", mixed_commits)):
        if not isinstance(switch, bool):
            raise EvaluationError(f"{what} is True or False; got {type(switch).__name__}.")
    lists = [("methods", methods), ("metrics", metrics), ("ablations", ablations)]
    for what, names in lists if methods is not None else lists[1:]:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise EvaluationError(f"{what} are a list of names; got {type(names).__name__}.")
    check_target(target)
    skip = whole_number(skip, "skip", EvaluationError)
    if limit is not None:
        limit = whole_number(limit, "limit", EvaluationError, least=1)
    generate = whole_number(generate, "generate", EvaluationError)
    draws = whole_number(draws, "draws", EvaluationError, least=1)
    names_of_fields = {
        "field": field,
        "answer_field": answer_field,
        "other_field": other_field,
        "within_field": within_field,
        "split": split,
        "subset": subset,
    }
    for what, name in names_of_fields.items():
        if not isinstance(name, str | None):
            raise EvaluationError(f"{what} is a name; got {type(name).__name__}.")
    # Which passages, and what measures them.
    data_set = read_passages(
        passages,
        field=field,
        answer_field=answer_field,
        other_field=other_field,
        within_field=within_field,
        split=split,
        subset=subset,
    )
    selection = Selection.of(data_set, skip, limit, target=target, truncate=truncate, generate=generate)
    if not selection.indices():
        raise EvaluationError(f"skip={skip} leaves none of the {len(selection.passages)} passages; skip fewer.")
    from lens_scopes.evaluation.evaluator import Evaluator

    conventions = as_protocol(protocol)
    if data_set.bring("within"):
        conventions.check_parts()
    evaluator = Evaluator(
        model,
        conventions.methods_of(metrics) if methods is None else methods,
        metrics,
        ablations,
        seed=seed,
        draws=draws,
        corpus=_corpus(model, selection),
        protocol=conventions,
        with_answers=selection.answers is not None,
        by=by,
    )
    if evaluator.needs_other and not data_set.bring("other"):
        raise EvaluationError(
            "what is asked needs another prompt for each passage, and none came with them; name the field that holds "
            "it (other_field=, --other-field), or give pairs (text, other)."
        )
    # This process's passages; results that nobody asked to keep go with the scratch folder.
    with tempfile.TemporaryDirectory() as scratch:
        folder = ResultFolder.begin(
            file_path(out or scratch), _manifest(model, evaluator, selection), mixed_commits=mixed_commits
        )
        measure_passages(model, evaluator, selection, folder, this_process(), retry=retry, progress=progress)
        _require_success(folder)
        return load_results(folder.path)


def _require_success(folder: ResultFolder) -> None:
    """Raises EvaluationError, with the first reason, where passages were tried and none was measured."""
    records = folder.records().values()
    failures = [record for record in records if record.status != MEASURED]
    if failures and len(failures) == len(records):
        first = failures[0]
        raise EvaluationError(
            f"none of {len(records)} passages could be measured; passage {first.passage}: {first.reason}"
        )


def check_choices(methods: Sequence[Any], metrics: Sequence[str], ablations: Sequence[str]) -> None:
    """Raises EvaluationError for a method, metric or ablation that is unknown; needs no model."""
    from lens_scopes.engine.ablations import find_ablation
    from lens_scopes.evaluation.methods.names import as_method
    from lens_scopes.evaluation.metrics.table import find_metric

    for check, names in ((as_method, methods), (find_metric, metrics), (find_ablation, ablations)):
        for name in names:
            check(name)


def measure_passages(
    model: Model,
    evaluator: EvaluatorLike,
    selection: Selection,
    folder: ResultFolder,
    process: Process,
    *,
    retry: bool = False,
    progress: Progress | None = None,
) -> None:
    """Measures what is left of this process's passages, one line of the folder each.

    A passage that fails is recorded with its reason, and the next one begins.

    Raises:
        EvaluationError: when another process is writing to this process's part of the folder.
        FileError: when results cannot be read or written.
    """
    with folder.shard(process.rank, process.count) as shard:
        complete = {index for index, record in folder.records().items() if not (retry and record.status == FAILED)}
        remaining = [index for index in selection.indices() if process.takes(index) and index not in complete]
        if not remaining:
            return
        # Who measures the lines that follow: device and commit may differ from those before.
        shard.append({"session": _session(model, selection, process)})
        for done, index in enumerate(remaining):
            if progress is not None:
                progress(done, len(remaining))
            shard.append(_measure_passage(model, evaluator, selection, index).as_line())
        if progress is not None:
            progress(len(remaining), len(remaining))


def _measure_passage(model: Model, evaluator: EvaluatorLike, selection: Selection, index: int) -> PassageRecord:
    start = time.perf_counter()
    try:
        prompt = selection.read(model, index)
        if isinstance(prompt, TooLong):
            return PassageRecord(index, TOO_LONG, str(prompt))
        passage = evaluator.passage(prompt.token_ids if prompt.prompt is None else prompt.prompt)
        facts, measurements = evaluator.measure(
            passage, prompt.target, index=index, answer=prompt.answer, other=prompt.other, within=prompt.within
        )
    except Exception as error:  # one passage must not end the run, whatever is wrong with it
        reason = str(error) if isinstance(error, LensScopesError) else f"{type(error).__name__}: {error}"
        return PassageRecord(index, FAILED, " ".join(reason.split()), seconds=time.perf_counter() - start)
    if prompt.cut:
        facts = facts | {"tokens_cut": prompt.cut}
    return PassageRecord(
        index, MEASURED, facts=facts, measurements=tuple(measurements), seconds=time.perf_counter() - start
    )


def _corpus(model: Model, selection: Selection) -> list[tuple[int, ...]]:
    """The first passages of the data set as token ids: the same whichever of its passages are measured."""
    corpus = []
    for text in selection.passages.texts[:_CORPUS]:
        try:
            prompt = read_passage(model, Passage(text), selection.target, truncate=True)
        except PromptError:
            continue
        if isinstance(prompt, PassagePrompt):
            corpus.append(prompt.token_ids)
    return corpus


def _manifest(model: Model, evaluator: EvaluatorLike, selection: Selection) -> dict[str, Any]:
    """All that the numbers depend on, the commit of the code, and what is planned at this start."""
    from lens_scopes.attribution.provenance import package_versions
    from lens_scopes.models.load import model_record

    record = asdict(model_record(model))
    del record["device"]  # another device gives the same numbers but for rounding, and may continue the folder
    signature = {name: value for name, value in evaluator.signature().items() if name != "model"}
    return {
        "passages": {
            "name": selection.passages.name,
            "sha256": selection.passages.digest(),
            "count": len(selection.passages),
            "target": selection.target,
            "truncate": selection.truncate,
            "answers": selection.answers,
            "eligible": "a part of each" if selection.passages.bring("within") else None,
        },
        "laboratory": signature,
        "model": record,
        "versions": package_versions(),
        "commit": _commit(),
        "plan": {
            "began": _now(),
            "skip": selection.skip,
            "limit": selection.limit,
            "methods": list(signature["methods"]),
            "metrics": list(signature["metrics"]),
            "ablations": list(signature["ablations"]),
        },
    }


def _session(model: Model, selection: Selection, process: Process) -> dict[str, Any]:
    return {
        "began": _now(),
        "process": process.rank,
        "processes": process.count,
        "device": str(next(iter(model.parameters())).device),
        "commit": _commit(),
        "skip": selection.skip,
        "limit": selection.limit,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _commit() -> str | None:
    """The git commit of lens_scopes' own code, with "-dirty-" and a digest of what was changed in the package since;
    None outside a checkout."""
    package = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        result = subprocess.run(
            ["git", *command], cwd=package, capture_output=True, text=True, timeout=10, check=True, errors="replace"
        )
        return result.stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "HEAD").strip()
        changes = git("diff", "HEAD", "--", ".") + git("ls-files", "--others", "--exclude-standard", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:12]}" if changes else head
