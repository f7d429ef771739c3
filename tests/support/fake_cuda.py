"""Runs a model for CUDA without a CUDA device: tensors on the device have a shape and a type, and no values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.models.forward import ExactForward, ModelOutput
from pipeline.models.transfer import Streams, Transfer, Wanted, best_path
from pipeline.records import Chunk

CUDA = torch.device("cuda")
_NO_KERNEL = {"device", "empty", "new_empty", "_unsafe_view", "split", "split_with_sizes"}


class FakeCuda(TorchDispatchMode):
    """Runs operators on the device for their shapes only, and those on the host as always.

    An operator that needs a value of the device on the host raises an error: there the host would wait.

    Attributes:
        calls: Operators on the device that launch a kernel or a copy.
        uploads: For each tensor that was copied to the device, whether the host continued meanwhile.
        downloads: For each tensor that was copied to the host, the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.uploads: list[bool] = []
        self.downloads: list[bool] = []
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned: list[torch.Tensor] = []

    def pin(self, values: torch.Tensor) -> torch.Tensor:
        """Page-locked memory, as far as this goes."""
        self._pinned.append(values.clone())
        return self._pinned[-1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(map(_is_on_cuda, leaves)):
            return func(*args, **kwargs)
        name = func._overloadpacket.__name__
        if not func.is_view and name not in _NO_KERNEL:
            self.calls[name] += 1
        for leaf in filter(_is_real, leaves):
            pinned = any(leaf is each for each in self._pinned)
            self.uploads.append(pinned and bool(kwargs.get("non_blocking")))
        with self.fake:
            result = func(*args, **kwargs)
        if _is_on_cuda(leaves[0]) and isinstance(result, torch.Tensor) and result.device.type == "cpu":
            self.downloads.append(bool(kwargs.get("non_blocking")))
        return result


def _is_on_cuda(leaf: object) -> bool:
    place = leaf.device if isinstance(leaf, FakeTensor) else leaf
    return isinstance(place, torch.device) and place.type == CUDA.type


def _is_real(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    mode = FakeCuda()
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch.cuda, "is_available", lambda: False),  # otherwise a GPU that is there would be used
        patch.object(torch.Tensor, "pin_memory", lambda values: mode.pin(values)),
        torch.no_grad(),
    ):
        yield mode


@contextmanager
def gpus(count: int) -> Iterator[None]:
    """Let torch see GPUs. Nothing can be computed on them."""
    with (
        patch.object(torch.cuda, "is_available", lambda: count > 0),
        patch.object(torch.cuda, "device_count", lambda: count),
        patch.object(torch.cuda, "get_device_name", lambda device: "Fake GPU"),
    ):
        yield


class _FakeStreams(Streams):
    """Copies as `Streams` does on CUDA, without streams."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def to_host(self, values: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], None]:
        return [each.to("cpu", non_blocking=True) for each in values], None


def run(mode: FakeCuda, forward: ExactForward, lengths: torch.Tensor) -> ModelOutput:
    """Run a batch of these lengths up to the copies of its results, as the engine does; moves weights to the device."""
    shape = len(lengths), int(lengths.max())
    with mode.fake:
        for module in forward.modules():
            for values in (module._parameters, module._buffers):
                for name, value in values.items():
                    if value is not None:
                        made = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                        values[name] = torch.nn.Parameter(made, requires_grad=False)
    chunks = [Chunk(row, int(length)) for row, length in enumerate(lengths)]
    wanted = Wanted(logits=True, feature_dtype="float16", non_finite="")
    # In inference mode operators would not come here one by one.
    plain = ExactForward.forward.__wrapped__
    with patch("pipeline.models.transfer.best_path", best_path.__wrapped__), mode:
        waveforms = torch.empty(shape).pin_memory().to(CUDA, non_blocking=True)
        output: ModelOutput = plain(forward, waveforms, lengths, [1])
        Transfer(_FakeStreams(), wanted, chunks, output)
        return output
