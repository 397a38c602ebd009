"""An evaluator that measures nothing: numbers drawn from (seed, index), and accidents on request.

python tests/fake_evaluator.py DIR KILL_AT    # measures TOKEN_IDS into DIR, and is killed at that passage
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lens_scopes.errors import NumericsError
from lens_scopes.evaluation.passages.read import read_passages
from lens_scopes.evaluation.passages.selection import Selection
from lens_scopes.evaluation.processes import Process, this_process
from lens_scopes.evaluation.run import measure_passages
from lens_scopes.evaluation.storage.folder import ResultFolder
from lens_scopes.evaluation.storage.records import Measurement
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt

FRACTIONS = (0.1, 0.5)
TOKEN_IDS = tuple((0, 2, 3, *range(4, 6 + n % 5)) for n in range(12))


def bare_model() -> Any:
    """As much of a model as a run needs, without a tokenizer."""
    cfg = SimpleNamespace(n_ctx=32, d_vocab=23, default_prepend_bos=True)
    return SimpleNamespace(tokenizer=None, cfg=cfg, parameters=lambda: iter([torch.zeros(1)]))


class FakeEvaluator:
    """Stands in for the evaluator.

    Args:
        kill_at: the passage in whose middle the process ends as by `kill -9`.
        fail_at: passages that raise.
        delay: seconds that each passage takes.
    """

    def __init__(
        self,
        model: Any,
        methods: Sequence[str] = ("fisher", "random"),
        metrics: Sequence[str] = ("aopc", "loo-kl-spearman"),
        ablations: Sequence[str] = ("zero", "mean"),
        *,
        seed: int = 0,
        draws: int = 4,
        corpus: Sequence[Sequence[int]] = (),
        protocol: Any = None,
        with_answers: bool = False,
        by: str = "sentence",
        kill_at: int | None = None,
        fail_at: Sequence[int] = (),
        delay: float = 0.0,
    ) -> None:
        self.model, self.methods, self.metrics, self.ablations = model, list(methods), list(metrics), list(ablations)
        self.seed, self.draws, self.corpus = seed, draws, [list(ids) for ids in corpus]
        self.kill_at, self.fail_at, self.delay = kill_at, fail_at, delay
        self.measured: list[int] = []
        self.needs_other = False

    def passage(self, passage: Any) -> Prompt:
        return read_prompt(self.model, passage)

    def measure(
        self,
        prompt: Prompt,
        target: int | None,
        *,
        index: int,
        answer: Any = None,
        other: Any = None,
        within: Any = None,
    ) -> tuple[dict[str, Any], list[Measurement]]:
        self.measured.append(index)
        time.sleep(self.delay)
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.fail_at:
            raise NumericsError(f"passage {index} is\nbeyond help")
        draw = random.Random(1000 * self.seed + index)
        rows = []
        for shift, method in enumerate(self.methods):
            for metric in self.metrics:
                for ablation in self.ablations:
                    rows.append(Measurement(method, metric, ablation, draw.gauss(-float(shift)), None, 3, 1))
                    rows += [
                        Measurement(method, f"{metric}-curve", ablation, -f * draw.random(), f, 1) for f in FRACTIONS
                    ]
            rows.append(Measurement(method, "odd", None, float("nan"), note="undefined: 2 tokens"))
        correct = None if target is None else draw.random() < 0.6
        facts = {
            "n_tokens": len(prompt),
            "top_token": prompt.tokens[-1],
            "target_token": None if target is None else f"#{target}",
            "correct": correct,
            "target_probability": draw.random(),
        }
        return facts, rows

    def signature(self) -> dict[str, Any]:
        return {
            "methods": self.methods,
            "metrics": self.metrics,
            "ablations": self.ablations,
            "seed": self.seed,
            "draws": self.draws,
            "better": {"aopc": "lower", "loo-kl-spearman": "higher"},
        }


def measure_token_ids(path: Path, kill_at: int | None = None, process: Process | None = None) -> ResultFolder:
    model = bare_model()
    evaluator = FakeEvaluator(model, kill_at=kill_at)
    folder = ResultFolder.begin(path, {"laboratory": evaluator.signature()})
    measure_passages(model, evaluator, Selection(read_passages(TOKEN_IDS)), folder, process or this_process())
    return folder


if __name__ == "__main__":
    measure_token_ids(Path(sys.argv[1]), int(sys.argv[2]))
