"""Runs padded batches on a device and returns results in host memory. Splits batches that do not fit into memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchaudio.models import Wav2Vec2Model

from pipeline.models.facts import ModelFacts
from pipeline.models.forward import ExactForward
from pipeline.models.split import halve
from pipeline.models.transfer import Moment, Streams, Transfer, Wanted, seconds_between
from pipeline.records import Chunk, Emission, Rejected
from pipeline.runtime.cores import available_cores
from pipeline.runtime.memory import SharedMemory, is_out_of_memory


@dataclass(frozen=True)
class EngineSettings:
    """What to compute.

    Attributes:
        layers: Layers whose features to return.
        feature_dtype: Type of the features, float16 or float32.
        logits: Whether to return logits.
        emission_dtype: Type in which logits are stored, float16 or float32. They are returned in float32.
        fused: Whether to use the kernels of `fused.py`. Only benchmarks do, until these have been measured on a device.
    """

    layers: tuple[int, ...]
    feature_dtype: str
    logits: bool
    emission_dtype: str = "float32"
    fused: bool = False


class Started:
    """A batch that the device has started to compute.

    Attributes:
        parts: The batch in the order of its chunks: results on their way to the host, and chunks that were not run.
        cut: Manifest rows of chunks that did not fit into memory and are computed in halves.
        ended: The moment at which the batch was computed.
    """

    def __init__(self, began: Moment, before: Moment | None, share: float) -> None:
        """Begin the batch.

        Args:
            began: The moment at which its computation begins.
            before: The moment at which the batch before it, on the same core or GPU, was computed.
            share: Share of the device that computes the batch: one of its cores, or the whole GPU.
        """
        self.parts: list[Transfer | Rejected] = []
        self.cut: list[int] = []
        self.ended = self._began = began
        self._before = before
        self._share = share

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """Wait for the results and return an `Emission` or a `Rejected` per chunk, two for a chunk in halves."""
        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        for part in self.parts:
            if isinstance(part, Rejected):
                rejected.append(part)
            else:
                done = part.results()
                emissions += done[0]
                rejected += done[1]
        return emissions, rejected

    @property
    def idle_s(self) -> float | None:
        """Seconds for which the device was idle before this batch; `None` for the first. Read this after `results`.

        Half a second in which one of two cores was idle is a quarter of a second.
        """
        return None if self._before is None else self._share * max(0.0, seconds_between(self._before, self._began))

    @property
    def busy_s(self) -> float:
        """Seconds for which the device worked on this batch, counted as `idle_s` is. Read this after `results`."""
        return self._share * seconds_between(self._began, self.ended)


class Engine:
    """Runs a model on a device: takes padded waveforms and returns one `Emission` or `Rejected` per chunk.

    A GPU computes one batch after another. A CPU computes one batch on each core at the same time, with the same
    weights. So no core waits for another, and the number of cores does not change how a batch is computed.

    Attributes:
        device: The device.
        threads: Number of batches that are computed at the same time: the cores in use, or 1 on a GPU.
    """

    def __init__(
        self,
        facts: ModelFacts,
        model: Wav2Vec2Model,
        device: torch.device,
        precision: str,
        settings: EngineSettings,
        threads: int | None = None,
    ) -> None:
        """Move the model to its device, and change torch for the whole process.

        TF32 is switched off, so that float32 means float32. On a CPU, torch uses one thread for an operation.

        Args:
            facts: Properties of the model.
            model: The model, which gives its weights to the engine.
            device: The device.
            precision: fp32, bf16 or fp16.
            settings: What to compute.
            threads: Number of cores to use on a CPU; `None` for all that this process may use.
        """
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = device
        self.threads = 1
        self._pool: ThreadPoolExecutor | None = None
        if device.type == "cpu":
            torch.set_num_threads(1)
            self.threads = threads or available_cores()
            self._pool = ThreadPoolExecutor(self.threads, "batch")
        self._facts = facts
        self._layers = settings.layers
        self._streams = Streams(device)
        self._local = threading.local()
        self._begun: set[Future[Started]] = set()
        self._forward = ExactForward(
            model,
            precision,
            normalize_waveform=facts.body.normalize_waveform,
            normalize_epsilon=facts.body.normalize_epsilon,
            log_softmax=facts.values == "log_probs",
            fused=settings.fused,
        ).to(device)
        self._forward.pack()
        self._working_bytes = self._forward.working_bytes
        # CUDA raises an error when memory runs out. On a CPU, Linux would kill the process instead.
        self._memory = SharedMemory(limited=device.type == "cpu")
        self._fits = math.inf
        remedy = {"fp16": "; try precision=bf16 or fp32", "bf16": "; try precision=fp32"}.get(precision, "")
        if remedy:
            cause = f"precision={precision} is the likely cause{remedy}"
        else:
            cause = "in precision=fp32 samples far beyond [-1, 1] are the likely cause"
        self._wanted = Wanted(
            settings.logits,
            settings.feature_dtype,
            f"the model gave NaN or infinite values; {cause}",
            settings.emission_dtype,
        )

    @property
    def ahead(self) -> int:
        """Number of batches to start before the results of the first are waited for, so that the device never waits."""
        return 1 if self._pool is None else 2 * self.threads

    def run(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> tuple[list[Emission], list[Rejected]]:
        """Run one padded batch and wait for its results. The arguments are those of `start`."""
        return self.start(chunks, waveforms, lengths).result().results()

    def start(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> Future[Started]:
        """Start one padded batch. A batch that no core has begun can be cancelled.

        Args:
            chunks: The chunk of each waveform.
            waveforms: `(batch, samples)` float32 or int16 on the host, pinned for CUDA.
            lengths: `(batch,)` int64 on the host, valid samples of each waveform.
        """
        if self._pool is not None:
            computation = self._pool.submit(self._start, chunks, waveforms, lengths)
            self._begun = {computation, *(each for each in self._begun if not each.done())}
            return computation
        started: Future[Started] = Future()
        started.set_result(self._start(chunks, waveforms, lengths))
        return started

    def finish(self) -> None:
        """Wait for all batches that were started, so that no thread is at work when this process is forked."""
        wait(self._begun)

    def close(self) -> None:
        """Drop the batches that no core has begun, and wait for the others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _start(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> Started:
        """Compute a batch on this thread, or start it on a GPU. Split it if it does not fit into memory."""
        started = Started(self._streams.now(), getattr(self._local, "ended", None), 1 / self.threads)
        pieces = [slice(0, len(chunks))] if chunks else []
        while pieces:
            piece = pieces.pop()
            size = piece.stop - piece.start
            given = chunks[piece], waveforms[piece, : int(lengths[piece].max())], lengths[piece]
            transfer = self._try(*given)
            if transfer is not None:
                started.parts.append(transfer)
            elif size == 1:
                started.cut.append(chunks[piece.start].row)
                started.parts += self._start_halves(chunks[piece.start], given[1])
            else:
                middle = piece.start + size // 2
                pieces += [slice(middle, piece.stop), slice(piece.start, middle)]
        started.ended = self._local.ended = self._streams.now()
        return started

    def _try(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> Transfer | None:
        """Start a batch that should fit into memory; return `None` if it does not fit."""
        size, padded = len(chunks), waveforms.numel()
        needed = self._working_bytes(size, waveforms.shape[1])
        if size > 1 and padded > self._fits:
            return None
        # The free memory is an estimate, so a single utterance is tried unless it exceeds all memory.
        with self._memory.reserved(needed, try_anyway=size == 1) as reserved:
            if not reserved:
                return None
            try:
                output = self._forward(self._streams.to_device(waveforms), lengths, self._layers)
                return Transfer(self._streams, self._wanted, chunks, output)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error)):
                    raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._fits = min(self._fits, padded - 1)
        return None

    def _start_halves(self, chunk: Chunk, waveform: Tensor) -> list[Transfer | Rejected]:
        """Start the halves of a chunk that does not fit into memory, recursively.

        Args:
            chunk: The chunk.
            waveform: `(1, samples)`.

        Returns:
            The halves in order, or why the chunk cannot be computed.
        """
        num_samples = waveform.shape[1]
        num_frames = self._facts.num_frames(num_samples)
        halves = halve(chunk, num_samples, num_frames, self._facts.stride, self._facts.min_samples)
        if halves is None:
            return [self._too_long(chunk, num_samples)]
        parts: list[Transfer | Rejected] = []
        for half in halves:
            first = half.start - chunk.start
            own = waveform[:, first : first + half.num_samples]
            started = self._try([half], own, torch.tensor([own.shape[1]]))
            parts += [started] if started is not None else self._start_halves(half, own)
        refused = [part for part in parts if isinstance(part, Rejected)]
        return [replace(refused[0], chunk=chunk)] if refused else parts

    def _too_long(self, chunk: Chunk, num_samples: int) -> Rejected:
        message = (
            f"a chunk of {num_samples} samples, as short as it may be cut, does not fit into the memory of "
            f"{self.device}; use a machine with more memory"
        )
        return Rejected(chunk, "model", "out_of_memory", message)
