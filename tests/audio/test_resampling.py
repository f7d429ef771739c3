"""Equal to torchaudio, at ratios where torchaudio itself needs a gigabyte."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import resampling
from pipeline.audio.rates import resampled_length
from pipeline.audio.resampling import resample

DATA = Path(__file__).parents[1] / "data"
JFK, JFK_RATE = soundfile.read(DATA / "long" / "jfk.flac", dtype="float32")
SPEECH = torch.from_numpy(JFK.T[:, : 2 * JFK_RATE].copy())
"""`(2, 88200)`: two seconds of real speech, taken to be at any rate."""


def torchaudio_resample(waveform: torch.Tensor, orig: int, new: int) -> torch.Tensor:
    resampled: torch.Tensor = torchaudio.functional.resample(waveform, orig, new)
    return resampled


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_ordinary_rates_equal_torchaudio(rate: int) -> None:
    for waveform in (SPEECH, SPEECH[0], SPEECH[:, 1:30_001], SPEECH[:1, :1], SPEECH.reshape(2, 1, -1)):
        expected = torchaudio_resample(waveform.contiguous(), rate, 16_000)
        actual = resample(waveform, rate, 16_000)
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 1e-6


def test_the_same_rate_changes_nothing() -> None:
    assert resample(SPEECH, 16_000, 16_000) is SPEECH


@pytest.mark.parametrize(
    ("orig", "new"),
    [(1, 2), (3, 1), (441, 160), (97, 101), (101, 97), (1_009, 13), (797, 1_009), (7_919, 1_600)],
)
def test_any_ratio_equals_torchaudio(orig: int, new: int) -> None:
    expected = torchaudio_resample(SPEECH, orig, new)
    actual = resample(SPEECH, orig, new)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < 2e-6


@pytest.mark.parametrize("rate", [4_001, 3_999])
def test_awkward_rates_equal_torchaudio(rate: int) -> None:
    # torchaudio's kernel takes 64 MB.
    expected = torchaudio_resample(SPEECH, rate, 4_000)
    assert (resample(SPEECH, rate, 4_000) - expected).abs().max() < 2e-6


@pytest.mark.parametrize("rate", [16_001, 15_999, 44_101, 767_999])
def test_rates_next_to_each_other_need_little_memory(rate: int) -> None:
    resampled = resample(SPEECH, rate, 16_000)
    assert resampled.shape == (2, resampled_length(SPEECH.shape[-1], rate, 16_000))
    assert resampling._blocks(rate, 16_000).weights.numel() * 4 < 110 * rate + 2**20


def test_an_awkward_rate_is_close_to_the_ordinary_one_beside_it() -> None:
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(16_001) / 16_001)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    actual = resample(tone, 16_001, 16_000)
    # The kernel's edges, and float32's view of a phase among 16,000.
    assert (actual - expected)[100:-100].abs().max() < 2e-3


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1,), (0, 5), (2, 3, 7)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    expected_shape = (*shape[:-1], resampled_length(shape[-1], 44_100, 16_000))
    assert resample(torch.ones(shape), 44_100, 16_000).shape == expected_shape


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, not 0 and 16000 Hz"):
        resample(SPEECH, 0, 16_000)
    with pytest.raises(ValueError, match="float64"):
        resample(SPEECH.double(), 8_000, 16_000)


@given(
    st.integers(0, 5_000),
    st.sampled_from([8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000]),
    st.sampled_from([16_000, 8_000]),
)
@settings(max_examples=60, deadline=None)
def test_length_is_known_beforehand(num_samples: int, orig: int, new: int) -> None:
    assert resample(torch.zeros(num_samples), orig, new).shape == (resampled_length(num_samples, orig, new),)


@given(st.integers(0, 10**11), st.integers(1_000, 768_000), st.sampled_from([16_000, 8_000, 24_000]))
@settings(deadline=None)
def test_length_rounds_as_torchaudio_rounds(num_samples: int, orig: int, new: int) -> None:
    divisor = math.gcd(orig, new)
    small_orig, small_new = orig // divisor, new // divisor
    # torchaudio.functional._apply_sinc_resample_kernel, whose slice cannot exceed what was convolved.
    rounded = int(torch.ceil(torch.as_tensor(small_new * num_samples / small_orig)).long())
    expected = num_samples if orig == new else min(rounded, (num_samples // small_orig + 1) * small_new)
    assert resampled_length(num_samples, orig, new) == expected
    if orig != new:
        assert resampled_length(num_samples, small_orig, small_new) == expected


def test_length_is_torchaudios_where_float32_no_longer_counts() -> None:
    num_samples = 3 * 2**23 + 4
    assert resampled_length(num_samples, 24_000, 16_000) < -(-2 * num_samples // 3)
    expected = torchaudio_resample(torch.zeros(num_samples), 24_000, 16_000).shape[-1]
    assert resampled_length(num_samples, 24_000, 16_000) == expected
