"""Figures of ablated heads and patched cells: what was predicted against what happened."""
