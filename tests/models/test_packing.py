"""One copy by index gives bit for bit what one copy per utterance gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exactness import exact, pad
from small_models import small

from pipeline.models.catalog import MODELS
from pipeline.models.packing import frame_index, to_device

COUNTS = ([5], [1, 1, 1], [7, 3, 3, 1], [2, 9, 4], [40, 64, 33, 1, 50])


@pytest.fixture(scope="module")
def forward() -> Any:
    return exact(small(MODELS["wav2vec2_asr_base_960h"]), together=True)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_index_lists_the_frames_of_each_utterance(counts: list[int]) -> None:
    begins = [100 * place for place in range(len(counts))]
    expected = [begin + frame for begin, count in zip(begins, counts, strict=True) for frame in range(count)]
    index = frame_index(begins, counts)
    assert (index.dtype, index.tolist()) == (torch.int64, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", COUNTS)
def test_the_positional_convolution_pads_as_a_loop_does(forward: Any, counts: list[int], dtype: torch.dtype) -> None:
    position = forward.encoder.position
    width = position.conv.in_channels
    x = torch.randn(sum(counts), width, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        rows = torch.nn.utils.rnn.pad_sequence(list(torch.split(x.float(), counts)), batch_first=True)
        convolved = F.gelu(position.conv(rows.transpose(1, 2))).transpose(1, 2)
        expected = torch.cat([row[:count] for row, count in zip(convolved, counts, strict=True)]).to(dtype)
        got = position(x, counts, together=True)
    assert got.dtype == dtype
    assert torch.equal(got, expected)


@pytest.mark.parametrize("lengths", [[400], [9000, 7123, 719, 400], [400, 5000, 3000]])
@pytest.mark.parametrize("beyond", [0, 5, 777])
def test_the_front_end_joins_and_parts_as_a_loop_does(
    forward: Any, lengths: list[int], beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    waveforms, sizes = pad([torch.randn(length, generator=generator) for length in lengths])
    waveforms = F.pad(waveforms, (0, beyond))
    front_end = forward.front_end
    with torch.inference_mode():
        signal, places = front_end._signal(waveforms, sizes, together=True)
        looped = torch.zeros_like(signal)
        for place, end, waveform in zip(places, places[1:], waveforms, strict=False):
            looped[place:end][: len(waveform)] = waveform[: end - place]
        assert torch.equal(signal, looped)
        got, counts = front_end(waveforms, sizes, together=True)

        def sliced(begins: list[int], counts: list[int]) -> torch.Tensor:
            assert all(begin == place // front_end.stride for begin, place in zip(begins, places, strict=False))
            pieces = [torch.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)]
            return torch.cat(pieces)

        monkeypatch.setattr("pipeline.models.front_end.frame_index", sliced)
        expected, _ = front_end(waveforms, sizes, together=True)
    assert len(got) == sum(counts.tolist())
    assert torch.equal(got, expected)


def test_on_a_cpu_a_tensor_stays_where_it_is() -> None:
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values
