"""Emissions to transcripts: chunks stitched into utterances, labels into words with times and scores.

A decoder is one module with a dataclass `Options` and a class `Decoder`: here, or in another package that has an
entry point in the group `overnight_speech.decoders`.
"""

from __future__ import annotations

from pipeline.runtime.plugins import Modules

DECODERS = Modules("decoder.name", "pipeline.decoding", "Options", "overnight_speech.decoders")
"""The decoders by the value of `decoder.name`. `DECODERS.load(name)` imports one."""
