"""One interface to the models of TransformerLens: HookedTransformer and TransformerBridge."""

from lens_scopes.engine.model.bridge import BridgeModel
from lens_scopes.engine.model.cache import Provenance
from lens_scopes.engine.model.hooked import HookedModel
from lens_scopes.engine.model.refusals import has_hooked
from lens_scopes.engine.model.scoped import Batch, Hook, Model, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.engine.model.torch_state import (
    MatmulDtype,
    check_matmul_dtype,
    rounded_products,
    unusual_rounding,
    usual_torch,
)

__all__ = [
    "Batch",
    "BridgeModel",
    "Hook",
    "HookedModel",
    "MatmulDtype",
    "Model",
    "ModelLike",
    "Provenance",
    "ScopedModel",
    "check_matmul_dtype",
    "has_hooked",
    "one_at_a_time",
    "rounded_products",
    "unusual_rounding",
    "usual_torch",
]
