"""Draws utterances to label, and estimates error rates of a corpus from those that are labelled."""
