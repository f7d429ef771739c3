"""Draw the pictures of docs/plots.md: the figures of torchaudio's tutorial above those of `pipeline.plot`.

Example:
    python -m scripts.pictures.draw_plots docs

The tutorial is "Speech Recognition with Wav2Vec2" (Moto Hira):
https://docs.pytorch.org/audio/stable/tutorials/speech_recognition_pipeline_tutorial.html
Its figures are drawn by its own calls, from the shipped model in place of the one that it downloads.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
import torch
import torchaudio
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.datasets import SHIPPED
from pipeline.models.sources.digits import Options, Source
from pipeline.plot import main as plot
from pipeline.results import open_run
from pipeline.run import main as run
from scripts.pictures.saving import save

ID = "theo-6digits-34.flac"
DPI, SPACE, CAPTION = 110, 16, 34


def tutorial(path: Path, emission_of_run: NDArray[np.float32]) -> tuple[bytes, bytes]:
    """The tutorial's figures of the features of the first layer, and of the emission, as PNGs."""
    source = Source("digits", Options())
    model, bundle_rate = source.build(), source.facts.sample_rate
    samples, sample_rate = soundfile.read(path, dtype="float32")
    waveform = torch.from_numpy(samples)[None]
    if sample_rate != bundle_rate:
        waveform = torchaudio.functional.resample(waveform, sample_rate, bundle_rate)
    with torch.inference_mode():
        features, _ = model.extract_features(waveform)
    figure, ax = plt.subplots(len(features), 1, figsize=(16, 4.3 * len(features)))
    for i, feats in enumerate(features):
        ax[i].imshow(feats[0].cpu(), interpolation="nearest")
        ax[i].set_title(f"Feature from transformer layer {i + 1}")
        ax[i].set_xlabel("Feature dimension")
        ax[i].set_ylabel("Frame (time-axis)")
    figure.tight_layout()
    figure.canvas.draw()
    first = ax[0].get_tightbbox().padded(8).transformed(figure.dpi_scale_trans.inverted())
    feature = io.BytesIO()
    figure.savefig(feature, dpi=DPI, bbox_inches=first)
    with torch.inference_mode():
        emission, _ = model(waveform)
    assert np.allclose(emission[0].numpy(), emission_of_run, atol=1e-3), "the run has another emission"
    plt.figure()
    plt.imshow(emission[0].cpu().T, interpolation="nearest")
    plt.title("Classification result")
    plt.xlabel("Frame (time-axis)")
    plt.ylabel("Class")
    plt.tight_layout()
    classified = io.BytesIO()
    plt.savefig(classified, dpi=DPI, bbox_inches="tight")
    return feature.getvalue(), classified.getvalue()


def one_above_the_other(pictures: dict[str, bytes]) -> Image.Image:
    """One picture of several, each below its caption."""
    opened = {caption: Image.open(io.BytesIO(data)).convert("RGB") for caption, data in pictures.items()}
    width = max(image.width for image in opened.values()) + 2 * SPACE
    height = sum(image.height + CAPTION + SPACE for image in opened.values())
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 19)
    for caption, image in opened.items():
        drawing = ImageDraw.Draw(canvas)
        drawing.rectangle((0, top, width, top + CAPTION), fill="#dbe4f0")
        drawing.text((SPACE, top + 5), caption, fill="#223a5b", font=font)
        canvas.paste(image, (SPACE, top + CAPTION + SPACE // 2))
        top += image.height + CAPTION + SPACE
    return canvas


def main() -> None:
    """Write three PNGs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        assert run(["dataset=digits", "features.layers=[1]", f"run_dir={work / 'run'}", "stages=[manifest,infer]"]) == 0
        for values in ("logits", "log-probabilities"):
            assert plot([str(work / "run"), ID, "--values", values, "--out", str(work / values)]) == 0
        theirs = tutorial(SHIPPED / "digits" / ID, open_run(work / "run").emission(ID))
        ours = {path.parent.name + path.stem.removeprefix(ID): path.read_bytes() for path in work.glob("*/*.png")}
    for at, (kind, drawn) in enumerate((("feature", "logits-layer-01"), ("emission", "logits-emission"))):
        both = {"The tutorial": theirs[at], f"python -m pipeline.plot runs/digits/digits {ID}": ours[drawn]}
        save(one_above_the_other(both), folder / f"plots-{kind}.png")
    save(ours["log-probabilities-emission"], folder / "plots-logprobs.png")


if __name__ == "__main__":
    main()
