"""Reads corrected references from the files of annotation tools, and finds the utterances that they belong to."""
