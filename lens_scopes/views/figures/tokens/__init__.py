"""Figures of token scores: one attribution, two compared, several under each other."""
