"""Draw a call as Praat and a player show it: `python -m scripts.pictures.draw_export docs/export.png`.

The script joins shipped recordings of two speakers to a call with one speaker on each channel, transcribes the channels
one by one with the shipped model, exports the call, and draws what praatio and pysubs2 read from the exports.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pysubs2
import soundfile
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from praatio import textgrid

from pipeline.export.exporting import export
from pipeline.run import main as run

SHIPPED = Path(__file__).resolve().parents[2] / "pipeline" / "shipped" / "digits"
SPEAKERS = ("george", "jackson")
COLOURS = ("#31507a", "#b0562f")
TURNS = 3
OVERLAP_S = 0.4


def make_call(path: Path) -> None:
    """Write a recording of two channels in which two speakers take turns, each a little before the other has ended."""
    files = [sorted(SHIPPED.glob(f"{speaker}-[34]*.flac"))[:TURNS] for speaker in SPEAKERS]
    sides: list[list[tuple[int, np.ndarray]]] = [[], []]
    now, rate = 0, 16000
    for turn in range(TURNS):
        for side, mine in enumerate(files):
            samples, rate = soundfile.read(mine[turn])
            sides[side].append((now, samples))
            now += len(samples) - int(OVERLAP_S * rate)
    call = np.zeros((now + rate, 2))
    for side, said in enumerate(sides):
        for start, samples in said:
            call[start : start + len(samples), side] = samples
    soundfile.write(path, call, rate)


def draw_tier(axes: Axes, tier: textgrid.IntervalTier, colour: str) -> None:
    """Draw the intervals of a tier with their labels."""
    for start, end, label in tier.entries:
        axes.add_patch(Rectangle((start, 0.1), end - start, 0.8, facecolor=colour, alpha=0.18, edgecolor=colour))
        axes.text((start + end) / 2, 0.5, label, ha="center", va="center", fontsize=7.5, clip_on=True)
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_ylabel(tier.name, rotation=0, ha="right", va="center", fontsize=8)


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "calls").mkdir()
        make_call(folder / "calls" / "call.wav")
        given = ["dataset=folder", f"dataset.root={folder / 'calls'}", "model=digits", f"run_dir={folder / 'run'}"]
        assert run([*given, "channels=each", "outputs=[transcripts]", "stages=[manifest,infer]"]) == 0
        for format in ("textgrid", "srt"):
            export(folder / "run", format, out=folder / format)
        tiers = textgrid.openTextgrid(str(folder / "textgrid" / "call.TextGrid"), includeEmptyIntervals=False)
        cues = pysubs2.load(str(folder / "srt" / "call.srt"))
        call, rate = soundfile.read(folder / "calls" / "call.wav")
    words = [tiers.getTier(each) for each in tiers.tierNames if each.endswith("words")]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, rows = plt.subplots(
        5, 1, figsize=(9.6, 4.4), sharex=True, height_ratios=[1, 0.45, 1, 0.45, 0.9], layout="constrained"
    )
    seconds = np.arange(len(call)) / rate
    for side, (wave, tier) in enumerate(((rows[0], rows[1]), (rows[2], rows[3]))):
        wave.plot(seconds, call[:, side], color=COLOURS[side], linewidth=0.4)
        wave.set(yticks=[])
        wave.set_ylabel(f"channel {side + 1}", rotation=0, ha="right", va="center", fontsize=8)
        draw_tier(tier, words[side], COLOURS[side])
    for cue in cues:
        side = int(cue.plaintext.startswith("c2"))
        start, end = cue.start / 1000, cue.end / 1000
        rows[4].add_patch(Rectangle((start, 0.52 - 0.5 * side), end - start, 0.44, facecolor="#1b1f26"))
        text = cue.plaintext.strip()
        rows[4].text((start + end) / 2, 0.74 - 0.5 * side, text, ha="center", va="center", color="white", fontsize=7.5)
    rows[4].set(ylim=(0, 1), yticks=[], xlabel="seconds", xlim=(0, len(call) / rate))
    rows[4].set_ylabel("subtitles", rotation=0, ha="right", va="center", fontsize=8)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
