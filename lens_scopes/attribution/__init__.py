"""Computing results from a model, a prompt and a scope."""
