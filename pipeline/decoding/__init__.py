"""Emissions to transcripts.

A decoder is one module with a dataclass `Options` and a class `Decoder`: here, or in another package that has an entry
point in the group `overnight_speech.decoders`. The fields of `Options` are the keys `decoder.*` of the configuration,
and part of a run's identity. `Decoder(options, labels, seconds_per_frame)` fits the protocol `Decoder` below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pipeline.records import Labels, Transcript, UtteranceEmission
from pipeline.runtime.plugins import Modules

DECODERS = Modules("decoder.name", "pipeline.decoding", "Decoder", "overnight_speech.decoders")
"""The decoders by the value of `decoder.name`. `DECODERS.load(name)` imports one."""


class Decoder(Protocol):
    """Reads the emission of one whole utterance.

    Attributes:
        wants_logits: Whether the decoder reads `UtteranceEmission.logits`. Where it does not, the logits need not
            travel from the device, and an utterance of many hours costs 12 bytes a frame.
    """

    wants_logits: ClassVar[bool]

    def __call__(self, emission: UtteranceEmission) -> Transcript:
        """Return the transcript of `emission`, its word times in seconds of the original file."""
        ...


def make(name: str, options: Mapping[str, Any], labels: Labels, seconds_per_frame: float) -> Decoder:
    """Make the decoder that a run's identity describes.

    Args:
        name: The choice of the group `decoder`.
        options: The options of the identity; those of the decoder begin with `decoder.`.
        labels: The labels of the model.
        seconds_per_frame: Seconds from one frame to the next.
    """
    module = DECODERS.load(name)
    own = {key.removeprefix("decoder."): value for key, value in options.items() if key.startswith("decoder.")}
    decoder: Decoder = module.Decoder(module.Options(**own), labels, seconds_per_frame)
    return decoder
