"""Sections of measurements with the machine they were made on, and the JSON file that holds them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmark.goals import Goal, GoalResult, goal_result
from benchmark.measurements import Measurement
from lens_scopes.attribution.provenance import package_versions
from lens_scopes.errors import FileError

FORMAT = "lens_scopes.benchmark/2"


@dataclass(frozen=True)
class Section:
    """Measurements that are compared with each other: made in one process, in interleaved rounds.

    Attributes:
        name: short, such as "prompt-512".
        title: what was run, in words.
        yardsticks: names of the measurements that others are divided by; the first one counts most.
        measurements: one per case.
        goals: what the project aims at.
        numbers: further results, such as rank correlations.
        settings: what decides the results: tokens, clock, rounds.
        environment: packages and machine.
    """

    name: str
    title: str
    yardsticks: Sequence[str]
    measurements: Sequence[Measurement]
    goals: Sequence[Goal] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=lambda: environment())

    def seconds(self, name: str) -> float | None:
        """The median time of a case; None if it could not run or does not exist."""
        return next((item.seconds for item in self.measurements if item.name == name), None)

    def ratio(self, name: str, yardstick: str) -> float | None:
        """Time of a case divided by that of a yardstick; None if either could not run."""
        seconds, unit = self.seconds(name), self.seconds(yardstick)
        return None if seconds is None or not unit else seconds / unit

    def goal_results(self) -> list[GoalResult]:
        """Every goal with the value reached."""
        return [goal_result(goal, self.measurements, self.numbers) for goal in self.goals]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with medians, ratios and results of the goals."""
        plain = asdict(self)
        del plain["goals"]
        for item, values in zip(self.measurements, plain["measurements"], strict=True):
            values["seconds"] = item.seconds
            values["ratios"] = {yardstick: self.ratio(item.name, yardstick) for yardstick in self.yardsticks}
        return {**plain, "goal_results": [asdict(result) for result in self.goal_results()]}


def environment() -> dict[str, Any]:
    """What decides times besides the code: packages, processor, cores, threads."""
    return {
        "versions": package_versions(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def place(environment: Mapping[str, Any]) -> str:
    """The machine in words, such as "AMD EPYC, one thread"."""
    if environment["accelerator"]:
        return environment["accelerator"]
    threads = environment["threads"]
    return f"{environment['processor']}, {'one thread' if threads == 1 else f'{threads} threads'}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read_sections(path: Path) -> dict[str, Any]:
    """The sections of a JSON file as plain values, by name; none if the file does not exist.

    Raises:
        FileError: if the file exists and is no benchmark of this format.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} exists and cannot be read as JSON; remove it or name another file.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(f"{path} exists and is no benchmark of this format; remove it or name another file.")
    return content["sections"]


def file_content(sections: Mapping[str, Any]) -> bytes:
    """The JSON file of plain sections."""
    content = {"format": FORMAT, "sections": sections}
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
