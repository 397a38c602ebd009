"""What the leaderboard measures: its methods, its quantities, and what stays fixed."""

from __future__ import annotations

from dataclasses import dataclass

from lens_scopes.scopes.registry import RULE_SETS

LAST_TOKENS = 64
CHOSEN_ON = 50  # passages of each data set before the first that is measured
PASSAGES = 150
ABLATIONS = ("mean", "zero")
REFERENCE = "FisherAtValues"
FAMILIES = {
    "values": "read at the attention values",
    "scope": "scope at the embedding",
    "rules": "rules on the backward pass",
    "gradient": "gradient × input",
    "attention": "attention",
    "ablation": "ablations",
    "trivial": "trivial",
}


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        line: the method as `evaluate` takes it.
        family: one of FAMILIES.
        removal: whether comprehensiveness and sufficiency are measured too.
    """

    line: str
    family: str
    removal: bool = True


_RULED = {
    f"{what}, {rules.title}{', dot' * bool(readout)}": Entry(f"{line}+{rules.name}{readout}", "rules", removal)
    for rules in RULE_SETS.values()
    for what, line, readout, removal in (
        ("Fisher", "fisher", "", True),
        ("Fisher", "fisher", "+dot", False),
        ("LogProb", "logprob", "", False),
        ("LogProb", "logprob", "+dot", True),
        ("FisherAtValues", "fisher-at-values", "", False),
    )
}
METHODS = {
    "FisherAtValues": Entry("fisher-at-values", "values"),
    "BalancedValues": Entry("balanced-values", "values"),
    "BalancedValues, rank 3": Entry("balanced-values@3", "values"),
    "LogProb at the values": Entry("logprob@values", "values"),
    "Semantic at the values": Entry("semantic@values", "values"),
    "Temperature at the values": Entry("temperature@values", "values"),
    "Fisher": Entry("fisher", "scope"),
    "Fisher, rank 8": Entry("fisher@8", "scope"),
    "LogProb": Entry("logprob", "scope"),
    "Semantic": Entry("semantic", "scope"),
    "Temperature": Entry("temperature", "scope"),
    **_RULED,
    "Fisher, half rule on A·V": Entry("fisher+half-av", "rules", removal=False),
    "Input × Gradient": Entry("ixg", "gradient"),
    "Integrated Gradients, zero": Entry("ig@5", "gradient"),
    "Integrated Gradients, mean": Entry("ig-mean@5", "gradient", removal=False),
    "Integrated Gradients, BOS": Entry("ig-bos@5", "gradient"),
    "Integrated Gradients, EOS": Entry("ig-eos@5", "gradient", removal=False),
    "Integrated Gradients, padding": Entry("ig-pad@5", "gradient", removal=False),
    "Grad-ELLM (after)": Entry("grad-ellm", "attention"),
    "attention rollout": Entry("attention-rollout", "attention"),
    "value-weighted attention": Entry("value-attention", "attention"),
    "ContextCite by token, 32": Entry("context-cite@32+by=token+ablation=mean", "ablation"),
    "Kernel SHAP by token, 32": Entry("kernel-shap@32+ablation=mean", "ablation"),
    "closeness to the end": Entry("closeness", "trivial"),
    "embedding norm": Entry("embedding-norm", "trivial"),
    "surprisal": Entry("surprisal", "trivial"),
    "random": Entry("random", "trivial"),
}
SHORT = {
    "BalancedValues": "BalancedValues",
    "FisherAtValues": "FisherAtValues",
    "Fisher": "Fisher",
    "Grad-ELLM (after)": "Grad-ELLM (attention × gradient)",
    "Input × Gradient": "Input × Gradient (norm)",
    "LogProb, AttnLRP, dot": "AttnLRP (relevance)",
    "LogProb, GIM, dot": "GIM (relevance)",
    "closeness to the end": "*closeness to the end*",
    "Integrated Gradients, BOS": "Integrated Gradients from BOS, 5 steps",
    "ContextCite by token, 32": "ContextCite by token, 32 ablations",
    "random": "*random*",
}
"""The rows of the project's README, with their titles there."""
LEFT_OUT = {f"leave one out, {ablation}": ablation for ablation in ABLATIONS}
"""Methods that are the truth of one ablation, judged by the other."""

REMOVAL = ("comprehensiveness", "sufficiency")
QUANTITIES = {
    **{
        f"{what}, {ablation}": f"{words} (tokens replaced by {ablation})"
        for ablation in ABLATIONS
        for what, words in (
            ("spearman", "Spearman with leave-one-out KL"),
            ("partial", "the same given the token's position"),
            ("top5", "share of passages whose strongest token is in the top five"),
        )
    },
    "comprehensiveness": "fall of p without the top 1, 5, 10, 20 and 50 % of the tokens, mean; higher is better",
    "sufficiency": "fall of p with only those left, mean; lower is better",
}
AGREEMENT = tuple(name for name in QUANTITIES if name not in REMOVAL)
