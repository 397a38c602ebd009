"""Faithfulness of attributions: methods × metrics × ablations on a data set, with the statistics of the comparison."""
