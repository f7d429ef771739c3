"""Aligns an emission with a reference: which word was said when, and how well the reference fits. Opens no files."""
