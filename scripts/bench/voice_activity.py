"""Voice activity beside Silero's own API: speed on one core, memory, and what the settings cost in words.

Example:
    python scripts/bench/voice_activity.py

The first table takes CPU seconds of one thread. The second one runs a child process for each length. The third one
transcribes spoken digits with pauses between them, whole and in segments, with the shipped model. The texts of the
segments of a recording are joined, so that the word error rates are comparable.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import silero_vad
import soundfile
import torch
from common import ROOT, Table, environment, parser, prepared, publish, say
from layouts import cpu_seconds

from pipeline.audio.reader import read_header
from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import Extent, read_waveform
from pipeline.results import open_run
from pipeline.run import main as run
from pipeline.scoring.counting import count_errors
from pipeline.vad.engine.network import Network
from pipeline.vad.silero import Detector, Options

DATA = ROOT / "tests" / "data"
RATE = 16_000
SETTINGS = (
    (0.1, 0.03, 0.25),
    (0.5, 0.03, 0.25),
    (0.5, 0.1, 0.25),
    (0.5, 0.1, 0.1),
    (0.5, 0.2, 0.1),
    (1.0, 0.1, 0.1),
)
"""`min_silence_s`, `pad_s` and `min_speech_s`; the first are the defaults of Silero's API."""
_ONE = """
import json, resource, sys, time
from pipeline.audio.reader import read_header
from pipeline.audio.waveforms import Extent
from pipeline.vad.silero import Detector, Options
path = sys.argv[1]
detector = Detector(Options())
detector.prepare()
started = time.process_time()
found = detector.stretches(Extent(path), read_header(path), lambda: None)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([time.process_time() - started, peak / 1024, len(found)]))
"""


def main() -> None:
    options = parser(__doc__).parse_args()
    options.threads = 1
    with prepared(options) as work:
        tables = [speed(options, work), memory(options, work), words(options, work)]
        measured = {table.title: [[*row] for row in table.rows] for table in tables}
        publish("voice_activity", __doc__, tables, options, measured)


def talk(path: Path, minutes: float, seed: int = 1, rate: int = RATE, channels: int = 1) -> Path:
    """Sentences of LibriVox and of a speech, with pauses of 0.3 to 6 s of faint noise between them."""
    rng, length = np.random.default_rng(seed), 0.0
    sources = [*sorted((DATA / "librivox").glob("*.wav")), DATA / "long" / "jfk.flac"]
    sounds = [
        resample(torch.from_numpy(read_waveform(str(each))[0]), soundfile.info(each).samplerate, rate).numpy()
        for each in sources
    ]
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        while length < 60 * minutes:
            pause = 0.001 * rng.standard_normal(round(rate * rng.uniform(0.3, 6))).astype(np.float32)
            for part in (sounds[rng.integers(len(sounds))], pause):
                file.write(np.stack([part] * channels, 1))
                length += len(part) / rate
    return path


def speed(options: Namespace, work: Path) -> Table:
    minutes = 0.5 if options.quick else 10
    plain, studio = talk(work / "plain.wav", minutes), talk(work / "studio.flac", minutes, rate=44_100, channels=2)
    samples, _ = read_waveform(str(plain))
    waveform, theirs = torch.from_numpy(samples), silero_vad.load_silero_vad()
    torch.set_num_threads(1)
    detector = Detector(Options(min_silence_s=0.1, pad_s=0.03, min_speech_s=0.25))  # as in their API
    found: dict[str, list[float]] = {}
    results: dict[str, object] = {}

    def take(name: str, seconds: float, call: object) -> None:
        spent = cpu_seconds(lambda: results.update({name: call()}))  # type: ignore[operator]
        found.setdefault(name, []).append(seconds / spent)
        say(f"{name}: {found[name][-1]:.0f} x real time")

    def network() -> np.ndarray:
        fresh = Network(detector.weights)
        return np.concatenate([fresh.probabilities(block) for block in waveform.split(2048 * 512)])

    def of(path: Path) -> list[tuple[float, float]]:
        return detector.stretches(Extent(str(path)), read_header(str(path)), lambda: None)

    seconds, studio_s = len(samples) / RATE, soundfile.info(studio).duration
    for _ in range(options.rounds):
        take("silero_vad.get_speech_timestamps", seconds, lambda: silero_vad.get_speech_timestamps(waveform, theirs))
        take("the network of this project, samples in memory", seconds, network)
        take("vad=silero from a file, WAV, 16 kHz", seconds, lambda: of(plain))
        take("vad=silero from a file, FLAC, 44.1 kHz, stereo", studio_s, lambda: of(studio))
    stretches = [(each["start"] / RATE, each["end"] / RATE) for each in results["silero_vad.get_speech_timestamps"]]  # type: ignore[attr-defined]
    mine = results["vad=silero from a file, WAV, 16 kHz"]
    same = len(stretches) == len(mine) and bool(np.allclose(stretches, mine, atol=0.0011))  # type: ignore[arg-type]
    note = f"{seconds / 60:.1f} min; {len(stretches)} stretches, {'the same' if same else 'NOT the same'} in both."
    table = Table("Speed on one core", ["what", "x real time"], notes=[f"{note} Medians of {options.rounds} rounds."])
    for name, rates in found.items():
        table.add(name, statistics.median(rates))
    return table


def memory(options: Namespace, work: Path) -> Table:
    table = Table("One recording of any length", ["length, h", "peak of the process, MB", "x real time", "stretches"])
    for hours in (0.01, 0.05) if options.quick else (0.05, 1, 6):
        path = talk(work / "long.wav", 60 * hours)
        done = subprocess.run(
            [sys.executable, "-c", _ONE, str(path)], env=environment(1), capture_output=True, check=True
        )
        spent, peak, number = json.loads(done.stdout)
        table.add(hours, float(peak), soundfile.info(path).duration / spent, number)
        path.unlink()
    return table


def words(options: Namespace, work: Path) -> Table:
    """Ten digits of one speaker in each recording, with pauses of 0.2 to 4 s; recordings 0 to 4 are the test set."""
    rng, root, spoken = np.random.default_rng(5), work / "digits", {}
    root.mkdir()
    names = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
    speakers = sorted({path.stem.split("_")[1] for path in (DATA / "fsdd").glob("*.wav")})
    for speaker in speakers[: 1 if options.quick else None]:
        for index in range(5):
            order, parts = rng.permutation(10), []
            for digit in order:
                pause = 0.001 * rng.standard_normal(round(8000 * rng.choice([0.2, 0.5, 1.5, 4.0])))
                parts += [pause, soundfile.read(DATA / "fsdd" / f"{digit}_{speaker}_{index}.wav")[0]]
            soundfile.write(root / f"{speaker}_{index}.wav", np.concatenate([*parts, pause]), 8000)
            spoken[f"{speaker}_{index}.wav"] = " ".join(names[digit] for digit in order)
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "device=cpu", "outputs=[transcripts]"]
    columns = ["made of", "utterances", "audio computed", "wrong words, %", "left-out words, %"]
    table = Table("Digits with pauses, whole and in segments", columns)
    whole_s = 0.0
    for number, settings in enumerate((None, *SETTINGS)):
        named = {} if settings is None else dict(zip(("min_silence_s", "pad_s", "min_speech_s"), settings, strict=True))
        asked = [f"vad.{name}={value}" for name, value in named.items()]
        asked += ["vad=silero", "stages=[manifest,vad,infer]"] if asked else ["stages=[manifest,infer]"]
        code = run([*given, f"run_dir={work / f'out{number}'}", *asked])
        assert code == 0, code
        opened = open_run(work / f"out{number}")
        rows = opened.transcripts.merge(opened.manifest[["id", "start_s"]]).sort_values("start_s")
        texts = rows.groupby(rows["id"].str.partition("#")[0])["text"].agg(" ".join)
        errors = [count_errors(str(texts.get(name, "")), text) for name, text in spoken.items()]
        left_out = sum(len(text.split()) - len(str(texts.get(name, "")).split()) for name, text in spoken.items())
        total = sum(each.reference_words for each in errors)
        audio_s = float(rows["duration_s"].sum())
        whole_s = whole_s or audio_s
        shown = ", ".join(f"{name}={value:g}" for name, value in named.items()) or "whole recordings"
        wrong = 100 * sum(each.word_errors for each in errors) / total
        table.add(shown, len(rows), f"{audio_s / whole_s:.0%}", wrong, 100 * left_out / total)
        say(f"{table.rows[-1]}")
    table.notes.append(f"{len(spoken)} recordings of ten digits at 8 kHz, {whole_s / 60:.1f} min; the model `digits`.")
    return table


if __name__ == "__main__":
    main()
