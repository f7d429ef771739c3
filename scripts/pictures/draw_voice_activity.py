"""Draw the picture of docs/voice-activity.md: a run with `vad=silero` over one recording of spoken digits.

Example:
    python scripts/pictures/draw_voice_activity.py docs/voice-activity.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile

from pipeline.audio.reader import read_header
from pipeline.audio.waveforms import Extent
from pipeline.results import open_run
from pipeline.run import main as run
from pipeline.vad.engine.network import FRAME_SAMPLES, SAMPLE_RATE
from pipeline.vad.engine.recording import speech_probabilities
from pipeline.vad.silero import Detector, Options

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "fsdd"
BLUE, ORANGE, GREY, PALE = "#31507a", "#e8a33d", "#8a8f98", "#dbe4f0"
SPOKEN = ((3, 0.8), (1, 0.25), (4, 2.6), (1, 0.2), (5, 3.4), (9, 0.3), (2, 0.25), (6, 1.6))
"""Digits, and the seconds of pause after each."""


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "calls" / "call.wav"
        path.parent.mkdir()
        rate = record(path)
        given = [f"dataset.root={path.parent}", f"run_dir={work}/out", "model=digits", "outputs=[transcripts]"]
        assert run(["dataset=folder", "vad=silero", "stages=[manifest,vad,infer]", *given]) == 0
        opened = open_run(f"{work}/out")
        manifest, words, coverage = opened.manifest, opened.words, opened.coverage.iloc[0]
        header = read_header(str(path))
        probabilities = speech_probabilities(Extent(str(path)), header, Detector(Options()).weights)
        samples = soundfile.read(path)[0]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (wave, likely, account) = plt.subplots(
        3, 1, figsize=(9.6, 4.8), height_ratios=(2.2, 1.4, 1.3), layout="constrained"
    )
    wave.sharex(likely)
    for row in manifest.itertuples():
        for axis in (wave, likely):
            axis.axvspan(row.start_s, row.end_s, color=PALE, lw=0)
        wave.text(row.start_s, 1.02, row.id.partition("#")[2], color=BLUE, transform=wave.get_xaxis_transform(), size=8)
    wave.plot(np.arange(len(samples)) / rate, samples, color=GREY, lw=0.4)
    top = float(np.abs(samples).max())
    for word in words.itertuples():
        wave.text((word.start_s + word.end_s) / 2, -0.95 * top, word.word, ha="center", color=BLUE, size=8)
    wave.set(ylim=(-1.1 * top, 1.1 * top), yticks=[], title=" ", ylabel="call.wav")
    wave.tick_params(labelbottom=False)
    likely.step(
        np.arange(len(probabilities)) * FRAME_SAMPLES / SAMPLE_RATE, probabilities, where="post", color=BLUE, lw=0.9
    )
    likely.axhline(0.5, color=ORANGE, lw=0.9, ls="--")
    likely.text(0.05, 0.56, "vad.threshold", color=ORANGE, size=8)
    likely.set(ylim=(-0.02, 1.05), xlim=(0, header.duration_s), xlabel="seconds", ylabel="probability\nof speech")
    bars = {
        "recording": (("decoded_s", BLUE), ("failed_s", ORANGE), ("left_out_s", GREY)),
        "speech": (("speech_with_text_s", BLUE), ("speech_without_text_s", ORANGE), ("speech_left_out_s", GREY)),
        "text": (("text_with_speech_s", BLUE), ("text_without_speech_s", ORANGE)),
    }
    for place, parts in enumerate(bars.values()):
        left = 0.0
        for column, color in parts:
            account.barh(place, coverage[column], left=left, color=color, height=0.7)
            left += coverage[column]
        said = ", ".join(
            f"{column.removesuffix('_s').replace('_', ' ')} {coverage[column]:.1f} s" for column, _ in parts
        )
        account.text(left + 0.1, place, said, va="center", size=8)
    account.set(yticks=range(len(bars)), yticklabels=[*bars], xlim=(0, 1.45 * header.duration_s), xticks=[])
    account.invert_yaxis()
    account.spines[["left", "bottom"]].set_visible(False)
    account.tick_params(left=False)
    figure.savefig(out, dpi=130)


def record(path: Path) -> int:
    """Write the recording, and return its sample rate."""
    noise, parts, rate = np.random.default_rng(2), [], 8000
    parts.append(0.002 * noise.standard_normal(8000))
    for digit, pause_s in SPOKEN:
        samples, rate = soundfile.read(DATA / f"{digit}_george_1.wav")
        parts += [samples, 0.002 * noise.standard_normal(round(rate * pause_s))]
    soundfile.write(path, np.concatenate(parts), rate)
    return rate


if __name__ == "__main__":
    main()
