"""The working directory in which the pages run: the run of the demo, and the files and runs that the pages speak of.

The weights of published models cannot be downloaded here, so the shipped model stands for each of them.
"""

from __future__ import annotations

import atexit
import csv
import dataclasses
import json
import os
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch

from pipeline.datasets import SHIPPED
from pipeline.models.catalog import DIGITS
from pipeline.models.sources import bundle, digits
from pipeline.report import charts
from scripts.data.make_voices_like import make_corpus
from scripts.docs import executing

DEMO = "python -m pipeline.run dataset=digits"
ONE_PICTURE = "report.utterances=1"
"""Pictures of more utterances take longer than the rest of a short run."""
NO_REPORT = "stages=[manifest,infer,score]"
LAYERS = (("features.layers=[6,12]", "features.layers=[2,4]"), ("layer=12", "layer=4"))
"""Layers that pages name, and those of the shipped model that stand for them."""
RUNS = (
    f"python -m pipeline.run dataset=folder dataset.root=/data/calls run_dir=/data/out {ONE_PICTURE}",
    "python -m pipeline.run -m dataset=voices dataset.root=/data/VOiCES_devkit "
    f"model=wav2vec2_asr_base_960h,hubert_asr_large {NO_REPORT}",
    "python -m pipeline.lm texts.txt -o /data/lm.arpa",
    "python -m pipeline.export /data/out --format labelstudio --out labelled",
)
"""What a reader has done before."""


class StandIn(digits.Source):
    """The shipped model under the name of a bundle."""

    def __init__(self, name: str, options: digits.Options) -> None:
        super().__init__(DIGITS.name, options)
        self.facts = dataclasses.replace(DIGITS, name=name)


_BUNDLE = bundle.Source


@cache
def _home() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="guide-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def demo() -> tuple[Path, str]:
    """A folder in which the demo has been run, and what it printed. The folder is there until this process ends."""
    folder = _home() / "demo"
    folder.mkdir()
    with no_charts():
        _, printed = executing.command(f"{DEMO} {ONE_PICTURE}", folder)
    return folder, printed


@cache
def _pristine() -> Path:
    """The world as every page finds it. It is made in the place of the world, whose paths are in its runs."""
    world = shutil.copytree(demo()[0], _home() / "world")
    _make_files(world)
    with stand_ins(world):
        for command in RUNS:
            code, printed = executing.command(command, world)
            assert code in (0, 3), printed
    tasks = json.loads((world / "labelled" / "tasks.json").read_text())
    done = [task | {"annotations": task["predictions"]} for task in tasks]
    (world / "corrected.json").write_text(json.dumps(done[:2]))
    (world / "export.json").write_text(json.dumps(done))
    shutil.copytree(world / "data" / "out", world / "data" / "meetings-out")
    return world.rename(world.with_name("pristine"))


@contextmanager
def fresh_world() -> Iterator[Path]:
    """The world for a page; there is one at a time."""
    pristine = _pristine()
    world = shutil.copytree(pristine, pristine.with_name("world"))
    try:
        with stand_ins(world):
            yield world
    finally:
        shutil.rmtree(world)


@contextmanager
def stand_ins(world: Path) -> Iterator[None]:
    """Let the shipped model stand for every bundle, and a small corpus for VOiCES."""
    with (
        patch.object(bundle, "Source", StandIn),
        patch.dict(os.environ, VOICES_ROOT=str(world / "data" / "VOiCES_devkit")),
        no_charts(),
    ):
        yield


def no_charts() -> AbstractContextManager[object]:
    """Let reports have no charts, which no page shows; drawing them takes longer than the rest of a report."""
    drawn = ("speed_chart", "time_chart", "histogram")
    return patch.multiple(charts, **{name: lambda *_, **__: "" for name in drawn})


def real_bundles() -> AbstractContextManager[object]:
    """For a command that describes bundles, and needs no weights."""
    return patch.object(bundle, "Source", _BUNDLE)


def with_layers(code: str) -> str:
    """What a page shows, with layers that the shipped model has."""
    for shown, there in LAYERS:
        code = code.replace(shown, there)
    return code


def quick(line: str, shown: bool) -> str:
    """A command as it runs: reports are short; a run whose output nobody sees makes none unless it names its stages."""
    words = shlex.split(with_layers(line), comments=True)
    if words[:3] != ["python", "-m", "pipeline.run"]:
        return with_layers(line)
    if not shown and not any(word.startswith(("stages=", "--", "vad=")) for word in words[3:]):
        words.append(NO_REPORT)
    return shlex.join([*words, ONE_PICTURE])


def described(folder: Path, languages: str | None) -> Path:
    """A folder with the files of a checkpoint, for a person's own or for one that would be fetched."""
    folder.mkdir()
    tokens = {"<pad>": 0, "|": 1, "a": 2}
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "vocab_size": 3}
    vocabulary = dict.fromkeys(languages.split(","), tokens) if languages else tokens
    for name, content in (("config", config), ("vocab", vocabulary), ("preprocessor_config", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(bytes(8) + b"{}")
    return folder


def _make_files(world: Path) -> None:
    data = world / "data"
    with open(SHIPPED / "digits" / "transcripts.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["num_digits"] in "123"]
    for index, row in enumerate(rows):
        samples, rate = soundfile.read(SHIPPED / "digits" / row["file_name"], dtype="float32")
        path = data / "calls" / ("monday", "tuesday")[index % 2] / f"{17 + index:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
        if index % 3:
            path.with_suffix(".txt").write_text(row["transcript"])
    made = sorted((data / "calls").rglob("*.wav"))
    names = [path.relative_to(data).as_posix() for path in made]
    listed = "".join(f"{name},{caller}\n" for caller, name in enumerate(names))
    for name in ("calls.csv", "list.csv"):
        (data / name).write_text(f"path,caller\n{listed}")
    for name in ("calls.tar", "shards/000.tar"):
        (data / name).parent.mkdir(exist_ok=True)
        with tarfile.open(data / name, "w") as tar:
            for path in made[:2]:
                tar.add(path, path.name)
    (data / "hf").mkdir()
    sounds = [{"audio": {"bytes": path.read_bytes(), "path": path.name}} for path in made[:2]]
    pq.write_table(pa.Table.from_pylist(sounds), data / "hf" / "train.parquet")
    durations = [{"id": path.stem, "path": str(path), "duration": soundfile.info(path).duration} for path in made[:2]]
    pq.write_table(pa.Table.from_pylist(durations), data / "list.parquet")
    (data / "monday").mkdir()
    soundfile.write(data / "monday" / "a.wav", np.resize(soundfile.read(made[0])[0], 22 * 8000), 8000)
    make_corpus(data / "VOiCES_devkit", recordings=3)
    torch.save({"model": {}, "args": None}, world / "checkpoint_best.pt")
    (data / "kaldi" / "train").mkdir(parents=True)
    (data / "kaldi" / "train" / "wav.scp").write_text(f"first {made[0]}\nsecond {made[1]}\n")
    texts = "one two three\nfour five six\nseven eight nine zero\n"
    for path in (world / "texts.txt", data / "minutes.txt"):
        path.write_text(texts)
    (data / "glossary.csv").write_text("text\nnine nine\n")
    (data / "metrics").mkdir()
    shutil.copytree(SHIPPED / "model", data / "my-model")
    described(data / "mms-1b-all", "deu,fra,ita")
    ids = [path.relative_to(data / "calls").as_posix() for path in made]
    (world / "speakers.csv").write_text("id,dialect\n" + "".join(f"{id},{'ns'[i % 2]}\n" for i, id in enumerate(ids)))
    (world / "corrected.csv").write_text("id,reference\ngeorge-1digits-00.flac,eighteen\n")
    (world / "meetings.rttm").write_text("SPEAKER 0017 1 0.00 9.00 <NA> <NA> alice <NA> <NA>\n")
