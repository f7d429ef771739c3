"""Decoders turn emissions into transcripts.

A decoder is a module of this package, or of another package that has an entry point in the group
`overnight_speech.decoders`. The module has a dataclass `Options` and a class
`Decoder(options, labels, seconds_per_frame)` that implements the protocol `Decoder` below. The fields of `Options` are
the keys `decoder.*` of the configuration, and part of the run's identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pipeline.records import Labels, UtteranceEmission
from pipeline.runtime.plugins import Modules
from pipeline.transcripts import Transcripts

DECODERS = Modules("decoder.name", "pipeline.decoding", "Decoder", "overnight_speech.decoders")
"""The decoders by the value of `decoder.name`. `DECODERS.load(name)` imports one."""


class Decoder(Protocol):
    """Decodes the emissions of whole utterances.

    Attributes:
        wants_logits: Whether the decoder reads `UtteranceEmission.logits`. If it does not, logits are not copied from
            the device, and a long utterance takes only 12 bytes per frame.
    """

    wants_logits: ClassVar[bool]

    def __call__(self, emissions: Sequence[UtteranceEmission]) -> Transcripts:
        """Return the transcripts of one or more utterances, in order. Word times are seconds in the original file.

        A decoder of single utterances returns `Transcripts.of([self.decode(each) for each in emissions])`.
        """
        ...


def make(name: str, options: Mapping[str, Any], labels: Labels, seconds_per_frame: float) -> Decoder:
    """Create the decoder that a run's identity describes.

    Args:
        name: The choice of the group `decoder`.
        options: Options of the identity. Keys of the decoder start with `decoder.`.
        labels: Labels of the model.
        seconds_per_frame: Seconds from one frame to the next.
    """
    module = DECODERS.load(name)
    own = {key.removeprefix("decoder."): value for key, value in options.items() if key.startswith("decoder.")}
    decoder: Decoder = module.Decoder(module.Options(**own), labels, seconds_per_frame)
    return decoder
