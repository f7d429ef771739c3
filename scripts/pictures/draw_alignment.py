"""Draw the picture of docs/alignment.md: a reference with a wrong word, aligned, and where it fits badly.

Example:
    python -m pipeline.run dataset=digits
    python scripts/pictures/draw_alignment.py runs/digits/digits theo-6digits-34.flac 4 eight docs/alignment.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.decoding.alignment.aligner import Aligner, Alignment
from pipeline.decoding.alignment.forced import find_states
from pipeline.decoding.alignment.spelling import Speller
from pipeline.report.labels import label_names
from pipeline.report.suspects import SUSPECT_LLR
from pipeline.results import open_run
from pipeline.results.arrays import log_probabilities
from pipeline.stages.postprocessing.emissions import StoredEmissions, describe_emissions
from pipeline.storage.run_directory import RunDirectory


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("id")
    parser.add_argument("place", type=int, help="number of the word to replace, from 1")
    parser.add_argument("word", help="what is put there")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    run, directory = open_run(options.run_dir), RunDirectory(options.run_dir)
    row = run.transcripts.set_index("id").loc[options.id]
    reference = row.reference.split()
    reference[options.place - 1] = options.word
    stored = describe_emissions(directory, directory.commits())
    logprobs = log_probabilities(run.emission(options.id).astype(np.float32))
    aligner = Aligner(stored.labels, stored.seconds_per_frame, Speller(stored.labels), find_states)
    found = aligner(logprobs, " ".join(reference), 0.0)
    assert isinstance(found, Alignment), found
    draw(row.path, logprobs, found, stored, label_names(run.emission_metadata), options.out)


def draw(
    path: str, logprobs: NDArray[np.float32], found: Alignment, stored: StoredEmissions, shown: list[str], out: Path
) -> None:
    names, stride = stored.labels.names, stored.seconds_per_frame
    samples, rate = soundfile.read(path)
    used = sorted(set(logprobs.argmax(1)) | {names.index(each.character) for each in found.characters} | {0, 1})
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9.6, 6.2), sharex=True, height_ratios=[1, 1.7, 0.8], layout="constrained"
    )
    top.plot(np.arange(len(samples)) / rate, samples, color="#31507a", linewidth=0.5)
    top.set(ylabel="waveform", yticks=[])
    middle.imshow(
        np.exp(logprobs[:, used]).T, aspect="auto", origin="lower", cmap="magma", interpolation="nearest",
        extent=(0, len(logprobs) * stride, -0.5, len(used) - 0.5),
    )  # fmt: skip
    for each in found.characters:
        place = used.index(names.index(each.character))
        middle.plot([each.start_s, each.end_s], [place, place], color="#4fd1c5", linewidth=3, solid_capstyle="butt")
    middle.set(ylabel="emission, reference", yticks=range(len(used)))
    middle.set_yticklabels([shown[label] for label in used], fontsize=8)
    for word in found.words:
        colour = "#c0392b" if word.llr < SUSPECT_LLR else "#2f8f6b"
        top.axvspan(word.start_s, word.end_s, color=colour, alpha=0.22, linewidth=0)
        top.text((word.start_s + word.end_s) / 2, 1.05, f"{word.word}\n{word.probability:.2f}", ha="center",
                 va="bottom", color=colour, transform=top.get_xaxis_transform())  # fmt: skip
        bottom.bar((word.start_s + word.end_s) / 2, word.llr, width=word.end_s - word.start_s, color=colour)
        bottom.annotate(f"{word.llr:.1f}", ((word.start_s + word.end_s) / 2, word.llr), xytext=(0, -2),
                        textcoords="offset points", ha="center", va="top", fontsize=9)  # fmt: skip
    bottom.axhline(0, color="#888", linewidth=0.6)
    bottom.axhline(SUSPECT_LLR, color="#c0392b", linewidth=0.6, linestyle=":")
    bottom.set(ylabel="llr of a word", xlabel="seconds", ylim=(min(word.llr for word in found.words) * 1.35, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
