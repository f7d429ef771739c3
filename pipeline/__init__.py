"""Overnight corpus transcription and speech feature extraction.

A folder of recordings becomes Parquet tables: transcripts with word times and scores, emissions, and
features of every layer. Start at `pipeline.run` (the order of the stages) or `pipeline.results` (reading
the tables back).
"""

from pipeline.runtime import starting

starting.handle_interrupts()

__version__ = "0.1.0"
