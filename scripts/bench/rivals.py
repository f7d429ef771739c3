"""The rivals of this project, each written as its users write it; `contestants.Rival` starts this script.

loop          torchaudio's tutorial: one recording at a time, `model()` for the emission, and where features are asked
              for `extract_features()` as well; the tutorial's greedy decoder; tables every 100 recordings.
batches       The same with padded batches in the order of the file names; the model gets the lengths.
transformers  Its ASR pipeline in batches. Where this is faster, separate processes decode the recordings. It writes
              no tables.

pyarrow writes the tables: one list of floats per row, without dictionaries, emissions in float32, features in float16.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from corpora import RATE, files, read

from pipeline.models.architectures import torchaudio_bundle
from pipeline.models.catalog import MODELS

EVERY = 100


class Tables:
    """Rows that become a Parquet file every `EVERY` recordings."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._count = self._files = 0

    def add(self, name: str, emission: torch.Tensor, layers: Sequence[torch.Tensor], transcript: str) -> None:
        frames = len(emission)
        self._row("transcripts", id=name, text=transcript)
        self._row("emissions", id=name, num_frames=frames, emission=emission.reshape(-1).numpy())
        for number, layer in enumerate(layers, start=1):
            self._row("features", id=name, layer=number, num_frames=frames, feature=layer.reshape(-1).numpy())
        self._count += 1
        if self._count % EVERY == 0:
            self.flush()

    def _row(self, table: str, **cells: Any) -> None:
        self._rows.setdefault(table, []).append(cells)

    def flush(self) -> None:
        for table, rows in self._rows.items():
            (self._out / table).mkdir(parents=True, exist_ok=True)
            columns = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
            # Without dictionaries, which only cost time where floats hardly repeat.
            path = self._out / table / f"part-{self._files:05d}.parquet"
            pq.write_table(pa.table(columns), path, use_dictionary=["id"])
        self._files += bool(self._rows)
        self._rows = {}


class GreedyCTCDecoder:
    """The tutorial's."""

    def __init__(self, labels: Sequence[str], blank: int = 0) -> None:
        self.labels = labels
        self.blank = blank

    def __call__(self, emission: torch.Tensor) -> str:
        indices = torch.unique_consecutive(torch.argmax(emission, dim=-1), dim=-1)
        return "".join([self.labels[i] for i in indices.tolist() if i != self.blank])


class Torchaudio:
    """Unmodified torchaudio, in the tutorial's loop or in padded batches."""

    def __init__(self, name: str, device: str, precision: str) -> None:
        facts = MODELS[name]
        bundle = torchaudio_bundle(name)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.device = device
        self.model = bundle.get_model(dl_kwargs={"weights_only": True}).to(device, self.dtype)
        self.decoder = GreedyCTCDecoder(facts.labels)

    @torch.inference_mode()
    def run(self, corpus: Path, out: Path, batch: int, features: bool) -> None:
        tables, paths = Tables(out), files(corpus)
        for first in range(0, len(paths), batch):
            chosen = paths[first : first + batch]
            waveforms = [torch.from_numpy(read(path)) for path in chosen]
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(self.device, self.dtype)
            given = None if batch == 1 else lengths.to(self.device)
            layers: list[torch.Tensor] = []
            if features:
                layers, _ = self.model.extract_features(padded, given)
            emissions, valid = self.model(padded, given)
            emissions = emissions.float().cpu()
            layers = [layer.half().cpu() for layer in layers]
            for index, path in enumerate(chosen):
                frames = emissions.shape[1] if valid is None else int(valid[index])
                emission = emissions[index, :frames].clone()
                kept = [layer[index, :frames].clone() for layer in layers]
                tables.add(path.name, emission, kept, self.decoder(emission))
        tables.flush()


class Recordings(torch.utils.data.Dataset[dict[str, Any]]):
    """What transformers' pipeline takes; read in its loader's processes, if it has any."""

    def __init__(self, corpus: Path) -> None:
        self.paths = files(corpus)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"raw": read(self.paths[index]), "sampling_rate": RATE}


class Transformers:
    """transformers' ASR pipeline with random weights in the shape of wav2vec2-base-960h or -large-960h."""

    def __init__(self, name: str, device: str, precision: str) -> None:
        import tempfile

        from transformers import (
            Wav2Vec2Config,
            Wav2Vec2CTCTokenizer,
            Wav2Vec2FeatureExtractor,
            Wav2Vec2ForCTC,
            pipeline,
        )

        large = "large" in name
        shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        torch.manual_seed(0)
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**(shape if large else {}))).eval()
        vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *MODELS[name].labels[1:]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocab.json"
            path.write_text(json.dumps({label: index for index, label in enumerate(vocabulary)}))
            tokenizer = Wav2Vec2CTCTokenizer(str(path))
        self.device = device
        self.pipeline = pipeline(
            "automatic-speech-recognition",
            model=model.to(torch.bfloat16 if precision == "bf16" else torch.float32),
            tokenizer=tokenizer,
            # As wav2vec2-base-960h has it.
            feature_extractor=Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False),
            device=device,
        )

    @torch.inference_mode()
    def run(self, corpus: Path, out: Path, batch: int, chunk_s: float = 0.0) -> None:
        recordings = Recordings(corpus)
        long = {"chunk_length_s": chunk_s, "stride_length_s": 4.0} if chunk_s else {}
        workers = min(8, len(os.sched_getaffinity(0)) - 2) if self.device == "cuda" and not chunk_s else 0
        source = recordings if not chunk_s else (recordings[index] for index in range(len(recordings)))
        count = sum(1 for _ in self.pipeline(source, batch_size=batch, num_workers=workers, **long))
        assert count == len(recordings), f"{count} transcripts of {len(recordings)} recordings"


def work() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def answer(to: Any, content: dict[str, Any]) -> None:
    to.write(json.dumps(content) + "\n")
    to.flush()


def main(kind: str, model: str, device: str, threads: str, precision: str) -> None:
    """Load the model, then time what standard input asks for, a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    torch.set_num_threads(int(threads))
    rival: Any = {"torchaudio": Torchaudio, "transformers": Transformers}[kind](model, device, precision)
    answer(answers, {"ready": True})
    for asked in work():
        corpus, out = Path(asked.pop("corpus")), Path(asked.pop("out"))
        started = time.perf_counter()
        try:
            rival.run(corpus, out, **asked)
        except (RuntimeError, MemoryError) as error:  # out of memory is a RuntimeError too
            reason = "out of memory" if "memory" in str(error).lower() else f"{type(error).__name__}: {error}"[:200]
            answer(answers, {"error": reason})
        else:
            answer(answers, {"seconds": time.perf_counter() - started})
        if device == "cuda":
            torch.cuda.empty_cache()  # for the contestants beside it


if __name__ == "__main__":
    main(*sys.argv[1:])
