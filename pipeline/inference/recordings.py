"""The recordings of a manifest as waveforms at the model's rate: one planned batch at a time, in whichever process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pipeline.audio.rates import resampled_length
from pipeline.audio.reader import AudioError, read_header
from pipeline.audio.waveforms import Extent, WaveformReader
from pipeline.inference.batches import Batch, Waveform, collate
from pipeline.inference.resampling import resample, resample_window, source_window
from pipeline.records import AudioHeader, Chunk, PlannedBatch, Rejected, Stage, Utterance
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.memory import is_out_of_memory
from pipeline.runtime.sandbox import Heartbeat
from pipeline.storage.manifest import Manifest


class Recordings(Dataset[Batch]):
    """Planned batches to waveforms or failures, one each; holds Arrow columns, not Python objects."""

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        min_samples: int,
        channels: str = "mix",
        max_samples: int | None = None,
    ) -> None:
        """Say what to load.

        Args:
            manifest: The recordings.
            sample_rate: Hz of the waveforms.
            min_samples: Fewer are a failure.
            channels: `first`, or `mix` to average them; where a row names its channel, that one is read.
            max_samples: A longer recording should have been cut, had its length been known.
        """
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = min_samples
        self.channels = channels
        self.max_samples = max_samples
        self.pulse: Heartbeat | None = None
        self._reader = WaveformReader()  # each process that loads has its own

    def __getitem__(self, plan: PlannedBatch) -> Batch:
        """Load one planned batch."""
        items = []
        info = get_worker_info()
        for position, chunk in enumerate(plan.chunks):
            if self.pulse is not None and info is not None:
                self.pulse.begin(info.id, position)
            items.append(self.load(chunk))
        batch = collate(plan, items)
        if self.pulse is not None and info is not None:
            self.pulse.idle(info.id)
        return batch

    def load(self, chunk: Chunk) -> Waveform | Rejected:
        """Load one chunk: mono, at the model's rate."""
        failpoint("decode")
        utterance = self.manifest.utterance(chunk.row)
        extent = Extent(
            utterance.path,
            utterance.start_s,
            utterance.end_s,
            utterance.channel or (1 if self.channels == "first" else None),
            self.manifest.file_size(chunk.row),
        )
        stage: Stage = "load"
        try:
            if chunk.num_samples == 0:
                stage = "manifest"
                self._refuse_other_plan(utterance, read_header(utterance.path))
            stage = "load"
            if chunk.whole:
                samples, rate = self._reader.read(extent)
                self._refuse_other_rate(rate, self.manifest.measured(chunk.row)[0])
                waveform = resample(torch.from_numpy(samples), rate, self.sample_rate)
            else:
                waveform = self._load_window(extent, chunk)
            if len(waveform) < self.min_samples:
                raise AudioError(
                    "too_short",
                    f"{len(waveform)} samples at {self.sample_rate} Hz; the model needs {self.min_samples} "
                    f"({1000 * self.min_samples / self.sample_rate:.0f} ms) for one frame",
                )
        except AudioError as error:
            return Rejected(chunk, stage, error.error, error.message)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Rejected(chunk, stage, "out_of_memory", "too long to be held in memory")
        failpoint("decoded")
        return Waveform(chunk, waveform)

    def _refuse_other_plan(self, utterance: Utterance, header: AudioHeader) -> None:
        """Refuse a recording that could not be read when the manifest was made, if it would now be other work.

        Installing the extra for its format is enough for that. Cut or told apart by channel it would have been, had
        it been readable; run differently it would have other results here than in a run of its own.
        """
        end_s = header.duration_s if utterance.end_s is None else min(utterance.end_s, header.duration_s)
        num_samples = (end_s - (utterance.start_s or 0.0)) * self.sample_rate
        too_long = self.max_samples is not None and num_samples > self.max_samples
        several = self.channels == "each" and utterance.channel is None
        if too_long or several:
            reason = "longer than chunk.seconds" if too_long else "to be told apart by channel"
            raise AudioError(
                "changed",
                f"it could not be read when the manifest was made, and is {reason}; start another run with run_dir=...",
            )

    def _load_window(self, extent: Extent, chunk: Chunk) -> Tensor:
        """Read what the chunk is computed from, and no more; what resampling the whole would give there."""
        rate, num_samples = self.manifest.measured(chunk.row)
        stop = chunk.start + chunk.num_samples
        first, last = source_window(chunk.start, stop, rate, self.sample_rate)
        samples, found = self._reader.read(extent, (first, None if chunk.last else last))
        self._refuse_other_rate(found, rate)
        if chunk.last and first + len(samples) < num_samples:
            stop = resampled_length(first + len(samples), rate, self.sample_rate)
        return resample_window(torch.from_numpy(samples), first, chunk.start, stop, rate, self.sample_rate)

    @staticmethod
    def _refuse_other_rate(found: int, known: int | None) -> None:
        """Refuse a file that was replaced by one of the same size, where its rate tells."""
        if known is not None and found != known:
            raise AudioError("changed", f"{found} Hz, {known} when the manifest was made")
