"""Transcripts beside references: word and character errors, per group, with intervals."""
