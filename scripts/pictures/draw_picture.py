"""Draw the picture of the README from a run: the waveform, the emission, and the words at their times.

Example:
    python -m pipeline.run dataset=digits
    python scripts/pictures/draw_picture.py runs/digits/digits theo-6digits-34.flac docs/picture.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile

from pipeline.report.labels import label_names
from pipeline.results import open_run


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("id")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    run = open_run(options.run_dir)
    row = run.transcripts.set_index("id").loc[options.id]
    words = run.words[run.words.id == options.id]
    samples, rate = soundfile.read(row.path)
    emission = run.emission(options.id)
    probability = np.exp(emission - np.logaddexp.reduce(emission, axis=1, keepdims=True))
    used = sorted(set(emission.argmax(1)) | {0, 1})
    names = label_names(run.emission_metadata)
    stride = run.emission_metadata["seconds_per_frame"]

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9.6, 4.8), sharex=True, height_ratios=[1, 1.5], layout="constrained"
    )
    top.plot(np.arange(len(samples)) / rate, samples, color="#31507a", linewidth=0.5)
    for word in words.itertuples():
        top.axvspan(word.start_s, word.end_s, color="#e8a33d", alpha=0.25, linewidth=0)
        middle = (word.start_s + word.end_s) / 2
        top.text(middle, 1.05, f"{word.word}\n{word.probability:.2f}", ha="center", va="bottom",
                 transform=top.get_xaxis_transform())  # fmt: skip
    top.set(ylabel="waveform", yticks=[])
    bottom.imshow(
        probability[:, used].T, aspect="auto", origin="lower", cmap="magma", interpolation="nearest",
        extent=(0, len(emission) * stride, -0.5, len(used) - 0.5),
    )  # fmt: skip
    bottom.set(ylabel="emission", xlabel="seconds", yticks=range(len(used)))
    bottom.set_yticklabels([names[label] for label in used], fontsize=8)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
