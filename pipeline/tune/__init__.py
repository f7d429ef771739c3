"""Finds the weights of a decoder on a part of a run's utterances, from stored emissions. Does not import torch."""
