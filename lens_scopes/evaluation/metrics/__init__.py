"""Metrics of faithfulness: the numbers that judge one method's scores of one prompt."""
