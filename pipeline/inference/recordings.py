"""Loads the recordings of a manifest as waveforms at the model's sample rate, one planned batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.audio.digests import digest_of_samples
from pipeline.audio.rates import resampled_length
from pipeline.audio.reader import AudioError, read_header
from pipeline.audio.resampling import resample, resample_window, source_window
from pipeline.audio.waveforms import Extent, WaveformReader, channel_to_read
from pipeline.inference.batches import Batch, Waveform, collate
from pipeline.records import AudioHeader, Chunk, PlannedBatch, Rejected, Stage, Utterance
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.memory import is_out_of_memory
from pipeline.storage.manifest import Manifest

LISTED_SLACK_S = 0.5
"""Seconds by which the duration that a list says may differ from that of the recording."""


class Recordings:
    """Loads each chunk of a planned batch as a waveform or a failure.

    An instance is cheap to share with forked processes, because it holds Arrow columns and not Python objects.
    """

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        min_samples: int,
        channels: str = "mix",
        max_samples: int | None = None,
    ) -> None:
        """Set what to load.

        Args:
            manifest: The recordings.
            sample_rate: Sample rate of the waveforms in Hz.
            min_samples: Samples that a waveform must have at least; a shorter one is a failure.
            channels: `first`, or `mix` to average all channels. A row that names its channel gets that channel.
            max_samples: Samples above which an utterance is cut into chunks. It matters only for recordings whose
                length was unknown when the manifest was made.
        """
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = min_samples
        self.channels = channels
        self.max_samples = max_samples
        self._reader = WaveformReader()  # each loading process has its own copy
        _ = manifest.table  # read now, so that forked processes share it

    def load_batch(self, plan: PlannedBatch) -> Batch:
        """Load one planned batch."""
        return collate(plan, list(self.load_each(plan)))

    def load_each(
        self, plan: PlannedBatch, begin: Callable[[int], None] = lambda position: None
    ) -> Iterator[Waveform | Rejected]:
        """Load the chunks of one planned batch; call `begin` with the position of each before loading it."""
        for position, chunk in enumerate(plan.chunks):
            begin(position)
            yield self.load(chunk)

    def load(self, chunk: Chunk) -> Waveform | Rejected:
        """Load one chunk as a mono waveform at the model's sample rate."""
        failpoint("decode")
        utterance = self.manifest.utterance(chunk.row)
        if utterance.id in self.manifest.rejected:
            return Rejected(chunk, "manifest", *self.manifest.rejected[utterance.id])
        extent = Extent(
            utterance.path,
            utterance.start_s,
            utterance.end_s,
            channel_to_read(utterance.channel, self.channels),
            self.manifest.file_size(chunk.row),
        )
        stage: Stage = "load"
        try:
            measured = self.manifest.measured(chunk.row)
            if chunk.num_samples == 0:
                stage = "manifest"
                self._require_same_plan(utterance, read_header(utterance.path))
            elif measured[0] is None:
                extent, measured = self._require_listed(extent, float(self.manifest.duration_s[chunk.row]))
            stage = "load"
            if chunk.whole:
                samples, rate = self._reader.read(extent)
                self._require_same_rate(rate, measured[0])
                digest = digest_of_samples(samples, rate)
                waveform = resample(torch.from_numpy(samples), rate, self.sample_rate)
            else:
                waveform, digest = self._load_window(extent, chunk, *measured)
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
            return Rejected(chunk, stage, "out_of_memory", "the recording does not fit into memory")
        failpoint("decoded")
        return Waveform(replace(chunk, audio_digest=digest), waveform)

    def _require_same_plan(self, utterance: Utterance, header: AudioHeader) -> None:
        """Refuse a recording that was unreadable when the manifest was made and would be planned differently now.

        A recording becomes readable if, for example, the extra for its format is installed. If it is too long for one
        chunk, or has several channels under `channels=each`, a new manifest would cut it into chunks or channels. Run
        as one chunk, it would get other results than in a new run.
        """
        end_s = header.duration_s if utterance.end_s is None else min(utterance.end_s, header.duration_s)
        num_samples = (end_s - (utterance.start_s or 0.0)) * self.sample_rate
        too_long = self.max_samples is not None and num_samples > self.max_samples
        several = self.channels == "each" and utterance.channel is None
        if too_long or several:
            reason = "is longer than chunk.seconds" if too_long else "has to be split by channel"
            raise AudioError(
                "changed",
                "the recording could not be read when the manifest was made; it can be read now and "
                f"{reason}, which needs another run with run_dir=...",
            )

    @staticmethod
    def _require_listed(extent: Extent, duration_s: float) -> tuple[Extent, tuple[int, int]]:
        """Refuse a recording whose length is not the one that the dataset says, because it was planned by that.

        Args:
            extent: What is to be read.
            duration_s: Seconds that the dataset says.

        Returns:
            What is to be read, with an end that is not after the recording; its sample rate in Hz, and its samples if
            it were exactly as long as the dataset says.
        """
        header = read_header(extent.path)
        if extent.end_s is None:
            there_s = header.duration_s - (extent.start_s or 0.0)
            if abs(there_s - duration_s) > LISTED_SLACK_S:
                raise AudioError(
                    "changed",
                    f"it lasts {there_s:.6g} s, but {duration_s:.6g} s in the list; correct the list, or start another "
                    "run with dataset.read_headers=true",
                )
        elif header.duration_s < extent.end_s <= header.duration_s + LISTED_SLACK_S:
            extent = replace(extent, end_s=header.duration_s)
        return extent, (header.sample_rate, round(duration_s * header.sample_rate))

    def _load_window(
        self, extent: Extent, chunk: Chunk, rate: int | None, num_samples: int | None
    ) -> tuple[Tensor, bytes]:
        """Load a chunk of a longer utterance, and read only the samples that the chunk depends on.

        Args:
            extent: The utterance.
            chunk: The chunk.
            rate: Sample rate of the recording in Hz.
            num_samples: Samples of the utterance that were planned.

        Returns:
            The same samples as those of the whole utterance, resampled at once, up to float32 rounding; and the digest
            of the samples that were read.
        """
        assert rate is not None
        assert num_samples is not None
        stop = chunk.start + chunk.num_samples
        first, last = source_window(chunk.start, stop, rate, self.sample_rate)
        samples, found = self._reader.read(extent, (first, None if chunk.last else last))
        self._require_same_rate(found, rate)
        if chunk.last and first + len(samples) != num_samples:
            stop = resampled_length(first + len(samples), rate, self.sample_rate)
        digest = digest_of_samples(samples, rate, first)
        return resample_window(torch.from_numpy(samples), first, chunk.start, stop, rate, self.sample_rate), digest

    @staticmethod
    def _require_same_rate(found: int, known: int | None) -> None:
        """Refuse a file that was replaced by a file of the same size with another sample rate."""
        if known is not None and found != known:
            message = f"the sample rate is {found} Hz, but was {known} Hz when the manifest was made"
            raise AudioError("changed", message)
