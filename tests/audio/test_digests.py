"""A digest stands for samples, their rate and their place, and for nothing else."""

from __future__ import annotations

import numpy as np

from pipeline.audio.digests import DIGEST_BYTES, digest_of_samples, joined_digest


def test_equal_samples_have_one_digest_wherever_they_lie_in_memory() -> None:
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    strided = np.stack([samples, samples], axis=1)[:, 1]
    assert digest_of_samples(samples, 8000) == digest_of_samples(strided, 8000)
    assert len(digest_of_samples(samples, 8000)) == DIGEST_BYTES


def test_other_samples_another_rate_or_another_place_have_another_digest() -> None:
    samples = np.zeros(1000, np.float32)
    louder = samples.copy()
    louder[-1] = np.nextafter(np.float32(0), np.float32(1))
    made = [
        digest_of_samples(samples, 8000), digest_of_samples(louder, 8000), digest_of_samples(samples[:-1], 8000),
        digest_of_samples(samples, 16000), digest_of_samples(samples, 8000, first=80),
    ]  # fmt: skip
    assert len(set(made)) == len(made)


def test_the_digest_of_one_window_is_that_of_the_utterance() -> None:
    one, other = digest_of_samples(np.zeros(9, np.float32), 8000), digest_of_samples(np.ones(9, np.float32), 8000)
    assert joined_digest([one]) == joined_digest([one, b""]) == one.hex()
    joined = {joined_digest(each) for each in ([one], [one, other], [other, one], [one, one])}
    assert len(joined) == 4
    assert {len(each) for each in joined} == {2 * DIGEST_BYTES}
