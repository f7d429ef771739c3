"""Finds utterances whose decoded audio is identical, by the digests in `transcripts/`. Does not import torch."""
