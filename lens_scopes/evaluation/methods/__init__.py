"""Methods that score the tokens of a prompt: scopes and comparison methods by name, and the evaluation's own."""
