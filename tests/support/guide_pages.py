"""The fenced blocks of the guide's pages, and a place where they run as a reader would run them.

A block that no test can run has a comment before it that readers do not see, `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import running
import soundfile
import torch
from running import ROOT, SHIPPED

from pipeline.models.catalog import DIGITS
from pipeline.models.sources import bundle, digits

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
READ = [*PAGES, *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_ANY_MARK = re.compile(r"^<!-- not run\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Of its first line of code, from 1.
        language: As the fence names it; a block without one holds commands.
        not_run: Why no test runs it, or `None`.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.name, text.count("\n", 0, match.start("code")) + 1, match["language"], match["code"], match["reason"]
        )
        for match in _BLOCK.finditer(text)
    ]


def marks_of(page: Path) -> list[str]:
    """Every comment that looks like a mark, also one that no block follows."""
    return _ANY_MARK.findall(page.read_text(encoding="utf-8"))


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a block, in words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


# --- the place


class StandIn(digits.Source):
    """The shipped model under the name of a bundle, whose weights no test can download."""

    def __init__(self, name: str, options: digits.Options) -> None:
        super().__init__(DIGITS.name, options)
        self.facts = dataclasses.replace(DIGITS, name=name)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shipped model stand for every bundle."""
    monkeypatch.setattr(bundle, "Source", StandIn)


LAYERS = (("features.layers=[6,12]", "features.layers=[2,4]"), ("layer=12", "layer=4"))
"""Layers that pages name, and those of the shipped model that stand for them."""


def placed(code: str, world: Path) -> str:
    """What a page shows, with the paths and layers that there are."""
    for shown, there in LAYERS:
        code = code.replace(shown, there)
    return re.sub(r"(?<![\w.])/data/", f"{world}/data/", code)


def make_world(world: Path, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what the pages speak of: corpora in data/, files of a reader, and the runs that they read."""
    stand_in(monkeypatch)
    _make_files(world)
    shutil.copytree(digits_run, world / "runs" / "digits" / "digits")
    monkeypatch.chdir(world)
    for command in (
        "pipeline.run dataset=folder dataset.root=data/calls run_dir=data/out stages=[manifest,infer,score,report]",
        "pipeline.run -m dataset=voices dataset.root=data/VOiCES_devkit model=wav2vec2_asr_base_960h,hubert_asr_large "
        "stages=[manifest,infer,score]",
        "pipeline.lm texts.txt -o data/lm.arpa",
        "pipeline.export data/out --format labelstudio --out labelled",
    ):
        assert execute(["python", "-m", *placed_words(command, world)]) in (0, 3), command
    tasks = json.loads((world / "labelled" / "tasks.json").read_text())
    done = [task | {"annotations": task["predictions"]} for task in tasks]
    (world / "corrected.json").write_text(json.dumps(done[:2]))
    (world / "export.json").write_text(json.dumps(done))
    shutil.copytree(world / "data" / "out", world / "data" / "meetings-out")


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


def placed_words(command: str, world: Path) -> list[str]:
    return command.replace("data/", f"{world}/data/").split()


def _make_files(world: Path) -> None:
    from scripts.data.make_voices_like import make_corpus

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


def module_of(name: str) -> str:
    """The module whose `main` a command `python -m NAME` calls."""
    found = importlib.util.find_spec(name)
    assert found is not None, name
    return f"{name}.__main__" if found.submodule_search_locations else name


def execute(words: Sequence[str]) -> int:
    """A command `python -m NAME ...` in this process; a run that does not say its stages makes no report."""
    _, _, name, *arguments = words
    if name == "pipeline.run":
        if not any(argument.startswith("vad=") for argument in arguments):
            arguments = running.overridden(arguments)
        arguments = [*arguments, "report.utterances=1"]  # pictures of more take longer than the rest of a short run
    code: int = importlib.import_module(module_of(name)).main(arguments)
    return code
