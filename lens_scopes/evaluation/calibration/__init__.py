"""Calibration of the gate on information flow: labelled prompts in, a threshold with its error rates out."""
