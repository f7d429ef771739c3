"""Digests of decoded audio, by which recordings with the same samples are found.

A digest is taken over the samples of the decoded channel or mix, before they are resampled. So it is the same for WAV
and FLAC, on every machine, and in runs with models of other sample rates. A long recording is loaded in overlapping
windows, perhaps by different processes. Its digest is that of the digests of its windows. Where the windows are depends
only on the length of the recording and on the settings of the run, so equal recordings have equal windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
"""Bytes of SHA-256 that are kept: enough that no two recordings of any corpus have the same by chance."""


def digest_of_samples(samples: NDArray[np.float32], sample_rate: int, first: int = 0) -> bytes:
    """Return the digest of a waveform, or of one window of it.

    Args:
        samples: `(samples,)` as decoded.
        sample_rate: Sample rate of the file in Hz.
        first: Position of the first sample. Without it, two recordings of silence could have the same windows, although
            one is longer.
    """
    # The fastest of the functions in hashlib on processors with instructions for it: 0.13 s for an hour of audio.
    digest = hashlib.sha256(f"{sample_rate} {first} ".encode())
    digest.update(np.ascontiguousarray(samples, dtype="<f4").data)
    return digest.digest()[:DIGEST_BYTES]


def joined_digest(digests: Iterable[bytes]) -> str:
    """Return the digest of an utterance in hexadecimal.

    Args:
        digests: Digests of its windows, in order. Empty ones are left out.
    """
    joined = b"".join(digests)
    if len(joined) > DIGEST_BYTES:
        joined = hashlib.sha256(joined).digest()[:DIGEST_BYTES]
    return joined.hex()
