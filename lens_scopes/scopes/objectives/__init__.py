"""What is explained: an objective turns the final state into weighted directions, the whole of a scope's choice.

    v_1 … v_k [k, d_model],  w_1 … w_k ≥ 0,  score_t = Σ_i w_i a_i,t²

where a_i,t is what the readout makes of v_iᵀ J_t (its norm, say). An objective that is a number, of one direction,
gives the plain √w·a_t instead, as in Jacobian Scopes (arXiv:2601.16407); the ranking is the same.

Of a whole answer, the objective is summed over the predictions of its tokens, teacher-forced. Numbers take one backward
pass for all of them, v_iᵀ J_t then being Σ_n v_nᵀ J_n,t over the answer's predictions n.
"""

from lens_scopes.scopes.objectives.base import Explanation, Objective
from lens_scopes.scopes.objectives.custom import Custom, DirectionFunction
from lens_scopes.scopes.objectives.fisher import EXACT_TRACE_LIMIT, Fisher
from lens_scopes.scopes.objectives.numbers import Entropy, LogitDiff, LogProb, LogProbDiff, Semantic, Temperature

__all__ = [
    "EXACT_TRACE_LIMIT",
    "Custom",
    "DirectionFunction",
    "Entropy",
    "Explanation",
    "Fisher",
    "LogProb",
    "LogProbDiff",
    "LogitDiff",
    "Objective",
    "Semantic",
    "Temperature",
]
