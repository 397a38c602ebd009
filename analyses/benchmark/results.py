"""What a benchmark found: sections of measurements, the machine they are of, and one JSON file that holds them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.measurements import Measurement
from benchmark.targets import Target, Verdict, judged
from lens_scopes.attribution.attribute import package_versions
from lens_scopes.errors import FileError

FORMAT = "lens_scopes.benchmark"


@dataclass(frozen=True)
class Section:
    """Measurements that are compared with each other: made in one process run, taking turns.

    Attributes:
        name: short, such as "scopes-512".
        title: what was run, in words.
        unit: the measurement that counts as 1 in ratios.
        measurements: one a case.
        targets: what was aimed at.
        figures: further numbers found on the way, such as rank correlations.
        settings: what decides the numbers: tokens, threads, dtype, seeds.
    """

    name: str
    title: str
    unit: str
    measurements: list[Measurement]
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def ratio(self, name: str) -> float | None:
        """Seconds of a case over those of the unit; None where either could not be run."""
        seconds, unit = self.seconds(name), self.seconds(self.unit)
        return None if seconds is None or not unit else seconds / unit

    def seconds(self, name: str) -> float | None:
        """The median time of a case."""
        return next((item.seconds for item in self.measurements if item.name == name), None)

    def verdicts(self) -> list[Verdict]:
        """Every target with what was reached."""
        return [judged(target, self.measurements, self.figures) for target in self.targets]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ratios and verdicts included."""
        return {
            **asdict(self),
            "ratios": {item.name: self.ratio(item.name) for item in self.measurements},
            "verdicts": [asdict(verdict) for verdict in self.verdicts()],
        }


@dataclass(frozen=True)
class Benchmark:
    """Sections by name, with the versions and the machine that they were measured with."""

    sections: dict[str, Section]
    versions: dict[str, str]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "format": FORMAT,
            "versions": self.versions,
            "machine": self.machine,
            "sections": {name: section.to_dict() for name, section in self.sections.items()},
        }


def benchmark_of(sections: Sequence[Section]) -> Benchmark:
    """Sections by name, with what decides times besides the code: packages, processor, cores, threads."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return Benchmark({section.name: section for section in sections}, package_versions(), found)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def merged(path: Path, benchmark: Benchmark) -> bytes:
    """The contents of a JSON file with the sections measured now and those that the file already held.

    Raises:
        FileError: when the file exists and is no benchmark.
    """
    plain = benchmark.to_dict()
    plain["sections"] = {**_sections_of(path), **plain["sections"]}
    return json.dumps(plain, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"


def _sections_of(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} exists and cannot be read as JSON; remove it or name another file.") from error
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise FileError(f"{path} exists and is not a benchmark; remove it or name another file.")
    return held["sections"]


def read_benchmark(path: Path) -> Benchmark:
    """A benchmark from its JSON file.

    Raises:
        FileError: when it cannot be read.
    """
    sections = _sections_of(path)
    if not sections:
        raise FileError(f"{path} does not exist or holds no measurements.")
    held = json.loads(path.read_text(encoding="utf-8"))
    return Benchmark({name: _section(plain) for name, plain in sections.items()}, held["versions"], held["machine"])


def _section(plain: Mapping[str, Any]) -> Section:
    return Section(
        name=plain["name"],
        title=plain["title"],
        unit=plain["unit"],
        measurements=[Measurement(**item) for item in plain["measurements"]],
        targets=[Target(**item) for item in plain["targets"]],
        figures=plain["figures"],
        settings=plain["settings"],
    )
