"""Jacobian Scopes for language models: which tokens, layers and heads made the model say that?

    import lens_scopes as ls

    model = ls.load_model("gemma-3-270m")
    att = ls.attribute(model, "The capital of France is", ls.Semantic(" Paris"), layers=True)
    att.to_html("paris.html")

Names are imported when first used, so that `import lens_scopes` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_scopes.attribution import Attribution
    from lens_scopes.baselines import (
        AttentionRollout,
        LeaveOneOut,
        OutsideScores,
        RandomScores,
        ValueWeightedAttention,
    )
    from lens_scopes.errors import LensScopesError
    from lens_scopes.evaluation.report import EvaluationReport, report
    from lens_scopes.evaluation.results import load_results
    from lens_scopes.evaluation.run import evaluate
    from lens_scopes.flow import information_flow
    from lens_scopes.heads import HeadInspection, inspect_heads
    from lens_scopes.matrix import AttributionMatrix, attribute_all
    from lens_scopes.models import available_models, load_model, model_record
    from lens_scopes.modes import ModeInspection, inspect_modes
    from lens_scopes.numbers import Series, ValueDistribution, read_series, value_distribution
    from lens_scopes.objectives import (
        Custom,
        Directions,
        Entropy,
        Fisher,
        FisherAtValues,
        LogitDiff,
        LogProb,
        Objective,
        Semantic,
        Temperature,
        register_objective,
    )
    from lens_scopes.paths import MLP, Attention, Frozen, Heads, Layers, Path, Skip
    from lens_scopes.points import Noise, StraightPath
    from lens_scopes.prompts import Prompt, read_prompt
    from lens_scopes.readouts import Dot, Norm, Product, Relative
    from lens_scopes.scopes import attribute, attribute_batch
    from lens_scopes.span_flow import InformationFlow

_HOMES = {
    "Attention": "paths",
    "AttentionRollout": "baselines",
    "Attribution": "attribution",
    "AttributionMatrix": "matrix",
    "Custom": "objectives",
    "Directions": "objectives",
    "Dot": "readouts",
    "Entropy": "objectives",
    "EvaluationReport": "evaluation.report",
    "Fisher": "objectives",
    "FisherAtValues": "objectives",
    "Frozen": "paths",
    "HeadInspection": "heads",
    "Heads": "paths",
    "InformationFlow": "span_flow",
    "Layers": "paths",
    "LeaveOneOut": "baselines",
    "LensScopesError": "errors",
    "LogProb": "objectives",
    "LogitDiff": "objectives",
    "MLP": "paths",
    "ModeInspection": "modes",
    "Noise": "points",
    "Norm": "readouts",
    "Objective": "objectives",
    "OutsideScores": "baselines",
    "Path": "paths",
    "Product": "readouts",
    "Prompt": "prompts",
    "RandomScores": "baselines",
    "Relative": "readouts",
    "Semantic": "objectives",
    "Series": "numbers",
    "Skip": "paths",
    "StraightPath": "points",
    "Temperature": "objectives",
    "ValueDistribution": "numbers",
    "ValueWeightedAttention": "baselines",
    "attribute": "scopes",
    "attribute_all": "matrix",
    "attribute_batch": "scopes",
    "available_models": "models",
    "evaluate": "evaluation.run",
    "information_flow": "flow",
    "inspect_heads": "heads",
    "inspect_modes": "modes",
    "load_model": "models",
    "load_results": "evaluation.results",
    "model_record": "models",
    "read_prompt": "prompts",
    "read_series": "numbers",
    "register_objective": "objectives",
    "report": "evaluation.report",
    "value_distribution": "numbers",
}

__all__ = [
    "Attention",
    "AttentionRollout",
    "Attribution",
    "AttributionMatrix",
    "Custom",
    "Directions",
    "Dot",
    "Entropy",
    "EvaluationReport",
    "Fisher",
    "FisherAtValues",
    "Frozen",
    "HeadInspection",
    "Heads",
    "InformationFlow",
    "Layers",
    "LeaveOneOut",
    "LensScopesError",
    "LogProb",
    "LogitDiff",
    "MLP",
    "ModeInspection",
    "Noise",
    "Norm",
    "Objective",
    "OutsideScores",
    "Path",
    "Product",
    "Prompt",
    "RandomScores",
    "Relative",
    "Semantic",
    "Series",
    "Skip",
    "StraightPath",
    "Temperature",
    "ValueDistribution",
    "ValueWeightedAttention",
    "attribute",
    "attribute_all",
    "attribute_batch",
    "available_models",
    "evaluate",
    "information_flow",
    "inspect_heads",
    "inspect_modes",
    "load_model",
    "load_results",
    "model_record",
    "read_prompt",
    "read_series",
    "register_objective",
    "report",
    "value_distribution",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lens_scopes' has no attribute {name!r}")
    return getattr(import_module(f"lens_scopes.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
