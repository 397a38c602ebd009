"""Jacobian Scopes for language models: which tokens, layers and heads made the model say that?

    import lens_scopes as ls

    model = ls.load_model("gemma-3-270m")
    att = ls.attribute(model, "The capital of France is", ls.Semantic(" Paris"), layers=True)
    att.to_html("paris.html")

Names are imported when first used, so that `import lens_scopes` takes no time.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
