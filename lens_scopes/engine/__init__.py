"""Forward and backward passes over hooked models: tensors in, tensors out."""
