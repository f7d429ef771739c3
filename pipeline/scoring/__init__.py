"""Scores of transcripts against references: word and character errors, per group, with intervals, and confusions."""
