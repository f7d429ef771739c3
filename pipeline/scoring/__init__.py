"""Scores transcripts against references: word and character error rates, per group, with confidence intervals."""
