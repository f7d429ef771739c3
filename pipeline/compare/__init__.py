"""Compares two runs of one corpus, or what a night added to a run with what was there before. Does not import torch."""
