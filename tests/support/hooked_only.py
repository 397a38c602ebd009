"""Tests of what a HookedTransformer alone has, which transformer-lens 4 does not: skipped there, for these reasons.

Tests that ask for a HookedTransformer by name, or for a tiny model that no bridge stands for, skip themselves.
"""

_WEIGHTS = "it names weights as a HookedTransformer does, and a bridge has those of Transformers"
_REPLACES = "it replaces hook_resid_mid, and what a bridge reads of that is one branch"
_FUSED = "attention in blocks is HookedTransformer's"
_POSITIONS = "it reads hook_pos_embed, which bridges to rotary models have and never call"
_TO_THE_BIT = "it compares probabilities of batches of several sizes to the last bit"
_COPIES = "PyTorch cannot copy a bridge made of weights that are no leaves"
_IMPORTS = "the list of names that transformer-lens 4 knows imports torch"
_BACKWARD = "final states leave a bridge in that hook, before the backward hook's place"

REASONS = {
    "tests/attribution/test_attribute.py::test_a_site_that_a_shape_lacks_is_refused_by_name": _WEIGHTS,
    "tests/attribution/test_attribute.py::test_dot_scores_equal_the_literal_formula_at_every_site": _REPLACES,
    "tests/attribution/test_attribute.py::test_kl_of_a_small_change_is_half_its_fisher_norm": _REPLACES,
    "tests/attribution/test_attribute.py::test_scores_equal_central_finite_differences": _REPLACES,
    "tests/attribution/test_attribute.py::test_scores_equal_the_literal_formula_at_every_site": _REPLACES,
    "tests/attribution/test_head_laws.py::test_direct_effects_skip_all_later_layers": _WEIGHTS,
    "tests/attribution/test_heads.py::test_direct_effects_are_logit_attribution_with_frozen_scales": _WEIGHTS,
    "tests/server/test_api.py::test_a_target_without_its_space_is_warned_of_everywhere": _WEIGHTS,
    "tests/engine/model/test_alterations.py::test_a_weight_that_is_gone_or_of_another_shape_is_named": _WEIGHTS,
    "tests/engine/model/test_alterations.py::test_changed_weights_are_seen": _WEIGHTS,
    "tests/engine/model/test_alterations.py::test_every_prompt_of_a_batch_has_a_target_or_an_objective_of_its_own": (
        _TO_THE_BIT
    ),
    "tests/cli/test_attribute_command.py::test_wrong_choices_are_refused_before_torch_is_imported[unknown model]": (
        _IMPORTS
    ),
    "tests/engine/model/test_scoped.py::test_adapters_of_a_model_share_one_cache_and_copies_have_their_own": _COPIES,
    "tests/engine/test_backward.py::test_a_model_is_unchanged_after_ctrl_c_in_a_hook[bwd-unembed.hook_in]": _BACKWARD,
    "tests/engine/test_backward.py::test_a_row_of_a_batch_that_is_not_finite_is_refused": _WEIGHTS,
    "tests/engine/test_backward.py::test_the_first_place_that_is_not_finite_is_named": _WEIGHTS,
    "tests/engine/test_memory.py::test_slices_give_the_scores_of_the_whole_graph_at_every_site": _FUSED,
    "tests/engine/test_memory.py::test_what_autograd_keeps_is_what_the_estimate_counts": _FUSED,
    "tests/scopes/test_paths.py::test_with_everything_frozen_the_model_is_linear_in_its_embeddings": _POSITIONS,
}


def reason_to_skip(test: str) -> str | None:
    """Why a test cannot run without HookedTransformer, by its node id; None where it can."""
    return REASONS.get(test) or REASONS.get(test.partition("[")[0])
