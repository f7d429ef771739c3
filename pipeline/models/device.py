"""Chooses the device and the precision, and how much work a device is given at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.runtime.cores import has_bf16
from pipeline.runtime.errors import UserError

CPU_BATCH_SECONDS = 12.0
"""Padded seconds in a batch on a CPU. Larger batches do not fit into the caches, which costs up to 8 %."""
CUDA_BATCH_SECONDS_PER_GIB = 6.0
"""Padded seconds per GiB of device memory. Base models in float32 need less than that."""
MAX_CUDA_BATCH_SECONDS = 600.0


@dataclass(frozen=True)
class Devices:
    """The devices that compute a job.

    Attributes:
        names: Their names, as torch has them on their machine, such as `cuda:1`.
        kinds: What they are, such as `NVIDIA H100`; none for a CPU.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...] = ()

    @property
    def first(self) -> torch.device:
        """The first device. The others are of the same type."""
        return torch.device(self.names[0])

    def __str__(self) -> str:
        return ", ".join(self.names) + (f" ({', '.join(self.kinds)})" if self.kinds else "")


def local_devices(name: str) -> Devices:
    """Turn the setting `device` into devices of this machine.

    Raises:
        UserError: torch does not see the device.
    """
    found = resolve_devices(name)
    kinds = dict.fromkeys(torch.cuda.get_device_name(device) for device in found if device.type == "cuda")
    return Devices(tuple(map(str, found)), tuple(kinds))


def resolve_devices(name: str) -> list[torch.device]:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into devices of this machine.

    `auto` and `cuda` stand for every GPU that torch sees, which `CUDA_VISIBLE_DEVICES` can limit. Without a GPU, `auto`
    stands for the CPU.

    Raises:
        UserError: torch does not see the device.
    """
    if name == "auto" and not torch.cuda.is_available():
        return [torch.device("cpu")]
    if name in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [resolve_device(name)]


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into one device. With several GPUs, `auto` and `cuda` are the first.

    Raises:
        UserError: torch does not see the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = int(name.partition(":")[2] or 0)
    device = torch.device(name if index < 100 else "cuda")  # torch stores the index in one byte
    if device.type == "cuda" and index >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices; use device=cpu or auto")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into fp32 on a CPU and bf16 on CUDA.

    Raises:
        UserError: The device has no fast arithmetic in this precision.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if reason := why_slow(name, device):
        raise UserError(f"precision={name}: {reason}; use precision=fp32 or auto")
    return name


def why_slow(precision: str, device: torch.device) -> str:
    """Return why a device has no fast arithmetic in a precision; nothing if it has."""
    if device.type == "cpu" and precision == "fp16":
        return "needs CUDA, and the device is the CPU"
    if device.type == "cpu" and precision == "bf16" and not has_bf16():
        return (
            "needs CUDA, or a CPU with AVX-512 BF16 or AMX; without them bf16 takes three times as long as fp32, and "
            "this CPU has neither"
        )
    return ""


def default_batch_seconds(device: torch.device) -> float:
    """Return the padded seconds of audio in one batch, by the memory of the device."""
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(MAX_CUDA_BATCH_SECONDS, CUDA_BATCH_SECONDS_PER_GIB * memory / 2**30)


def default_workers(device: torch.device, cores: int) -> int:
    """Return the number of loading processes: few if the model needs the cores itself, more for a GPU.

    Args:
        device: The device.
        cores: Number of cores that the model and its loading processes have.
    """
    return max(1, min(12, cores // 16 if device.type == "cpu" else cores - 2))


def default_committers(device: torch.device, cores: int) -> int:
    """Return the number of shards to commit at a time: few if the model needs the cores itself, more for a GPU.

    Args:
        device: The device.
        cores: Number of cores that the model and its committing threads have.
    """
    return max(1, min(8, cores // (16 if device.type == "cpu" else 4)))
