from .attribution.attribute import attribute, attribute_batch
from .attribution.cells import patch_cells
from .attribution.flow import information_flow
from .attribution.heads import inspect_heads
from .attribution.matrix import attribute_all
from .attribution.modes import inspect_modes
from .attribution.series import inspect_series, read_series, value_distribution
from .engine.scoring import Directions
from .errors import LensScopesError
from .evaluation.calibration.calibrate import FlowCalibration, calibrate_flow
from .evaluation.metrics.segments import segment_agreement
from .evaluation.report import EvaluationReport, report
from .evaluation.run import evaluate
from .evaluation.storage.results import load_results
from .models.load import available_models, load_model, model_record
from .prompts.prompt import Prompt
from .prompts.read import read_prompt
from .prompts.spans import Chars
from .results.attribution import Attribution
from .results.base import Difference, Ranked, Result
from .results.cells import CellPatches
from .results.comparison import Comparison
from .results.flow import InformationFlow
from .results.heads import HeadInspection
from .results.influence import TotalInfluence
from .results.load import load
from .results.matrix import AttributionMatrix
from .results.modes import ModeInspection
from .results.series import Series, SeriesInspection, ValueDistribution
from .scopes.comparisons.attention import AttentionRollout, GradEllm, ValueWeightedAttention
from .scopes.comparisons.balanced_values import BalancedValues
from .scopes.comparisons.context_cite import ContextCite
from .scopes.comparisons.external import ExternalScores
from .scopes.comparisons.faded_attention import FadedAttention
from .scopes.comparisons.kernel_shap import KernelShap
from .scopes.comparisons.leave_one_out import LeaveOneOut
from .scopes.comparisons.trivial import Closeness, EmbeddingNorm, RandomScores, Surprisal
from .scopes.lens import FittedLens, LogitLens
from .scopes.objectives import (
    Custom,
    Entropy,
    Fisher,
    LogitDiff,
    LogProb,
    LogProbDiff,
    Objective,
    Semantic,
    Temperature,
)
from .scopes.paths import MLP, Attention, Frozen, Heads, Layers, Path, Rules, Skip
from .scopes.points import Noise, StraightPath
from .scopes.readouts import Dot, Norm, Product, Relative
from .scopes.registry import register_objective
from .scopes.spec import FisherAtValues, Spec

__all__ = [
    "Attention",
    "AttentionRollout",
    "Attribution",
    "AttributionMatrix",
    "BalancedValues",
    "CellPatches",
    "Chars",
    "Closeness",
    "Comparison",
    "ContextCite",
    "Custom",
    "Difference",
    "Directions",
    "Dot",
    "EmbeddingNorm",
    "Entropy",
    "EvaluationReport",
    "FadedAttention",
    "Fisher",
    "FisherAtValues",
    "FittedLens",
    "FlowCalibration",
    "Frozen",
    "GradEllm",
    "HeadInspection",
    "Heads",
    "InformationFlow",
    "KernelShap",
    "Layers",
    "LeaveOneOut",
    "LensScopesError",
    "LogProb",
    "LogProbDiff",
    "LogitLens",
    "LogitDiff",
    "MLP",
    "ModeInspection",
    "Noise",
    "Norm",
    "Objective",
    "ExternalScores",
    "Path",
    "Product",
    "Prompt",
    "RandomScores",
    "Ranked",
    "Relative",
    "Result",
    "Rules",
    "Semantic",
    "Series",
    "SeriesInspection",
    "Skip",
    "Spec",
    "StraightPath",
    "Surprisal",
    "Temperature",
    "TotalInfluence",
    "ValueDistribution",
    "ValueWeightedAttention",
    "attribute",
    "attribute_all",
    "attribute_batch",
    "available_models",
    "calibrate_flow",
    "evaluate",
    "information_flow",
    "inspect_heads",
    "inspect_modes",
    "inspect_series",
    "load",
    "load_model",
    "load_results",
    "model_record",
    "patch_cells",
    "read_prompt",
    "read_series",
    "register_objective",
    "report",
    "segment_agreement",
    "value_distribution",
    "__version__",
]

__version__: str
