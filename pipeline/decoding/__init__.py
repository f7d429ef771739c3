"""Emissions to transcripts: chunks stitched into utterances, labels into words with times and scores."""
