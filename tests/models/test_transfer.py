"""Each chunk whose values cannot be stored is found among the packed frames of a batch, and no other chunk."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.forward import ModelOutput
from pipeline.models.transfer import HALF_MAX, Streams, Transfer, Wanted
from pipeline.records import Chunk

ODD = (math.nan, math.inf, -math.inf, HALF_MAX, -HALF_MAX, 65519.0)


def reason(logits: torch.Tensor, features: dict[int, torch.Tensor], dtype: str) -> str | None:
    """Why a chunk has no result, from its values alone."""
    if any(not bool(torch.isfinite(values).all()) for values in (logits, *features.values())):
        return "not finite"
    for layer, values in features.items():
        if dtype == "float16" and bool((values.abs() >= HALF_MAX).any()):
            return f"layer {layer} has values too large for float16; set features.dtype=float32"
    return None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1000), st.sampled_from(ODD)), max_size=4),
    st.sampled_from(["float16", "float32"]),
)
def test_each_chunk_is_rejected_for_its_own_values(
    counts: list[int], spoilt: list[tuple[int, int, float]], dtype: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(sum(counts), 3, generator=generator) for _ in range(3)]
    for which, place, value in spoilt:
        if sum(counts):
            values[which].view(-1)[place % values[which].numel()] = value
    features = {2: values[1], 5: values[2]}
    output = ModelOutput(torch.tensor(counts), values[0], features)
    chunks = [Chunk(row, 0) for row in range(len(counts))]
    wanted = Wanted(logits=True, feature_dtype=dtype, non_finite="not finite")
    emissions, rejected = Transfer(Streams(torch.device("cpu")), wanted, chunks, output).results()
    parts = [torch.split(each, counts) for each in values]
    expected = [reason(parts[0][row], {2: parts[1][row], 5: parts[2][row]}, dtype) for row in range(len(counts))]
    assert {item.chunk.row: item.message for item in rejected} == {
        row: why for row, why in enumerate(expected) if why is not None
    }
    assert [each.chunk.row for each in emissions] == [row for row, why in enumerate(expected) if why is None]
    for emission in emissions:
        row = emission.chunk.row
        assert emission.num_frames == counts[row]
        assert emission.logits is not None
        assert torch.equal(torch.from_numpy(emission.logits), parts[0][row])
        assert emission.path is not None
        assert emission.path.labels.tolist() == parts[0][row].argmax(-1).tolist()
        assert emission.features[5].tolist() == parts[2][row].numpy().astype(dtype).tolist()
