"""Loading models by name, folder or object."""
