"""Draw the word error rates of decoders on noisy digits, and the curve of a language model's weight.

Example:
    python -m scripts.pictures.draw_decoders docs/decoders.png

The rates are those of `scripts/results/beam-cpu.json`. For the curve, the script makes the corpus of
`scripts/data/make_voices_like.py` and a language model of random digit strings, and tunes the weight.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from pipeline.config.run_config import load_decoders
from pipeline.lm.__main__ import main as make_model
from pipeline.run import main as run
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.storage.run_directory import RunDirectory
from pipeline.tune.parts import draw_parts
from pipeline.tune.search import search
from scripts.data.make_voices_like import make_corpus

RESULTS = Path(__file__).parents[1] / "results" / "beam-cpu.json"
SHOWN = {
    "greedy": "greedy",
    "beam, no language model": "beam",
    "beam, language model of digit strings": "beam, words",
    "beam, language model of letters": "beam, letters",
    "beam, lexicon of the digits": "beam, lexicon",
}
WEIGHTS = (0, 1, 2, 4, 6, 8, 12, 16, 24)
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CHOSEN, MEASURED = "#31507a", "#b0562f"


def curves(folder: Path) -> tuple[list[float], list[float]]:
    """The rates by weight on the part that weights are chosen on, and on the other part, in per cent."""
    make_corpus(folder / "corpus", damaged=False)
    given = ["dataset=voices", f"dataset.root={folder / 'corpus'}", "model=digits", f"run_dir={folder / 'run'}"]
    assert run([*given, "outputs=[emissions]", "stages=[manifest,infer]"]) == 0
    draws = random.Random(0)
    strings = (" ".join(draws.choices(DIGITS, k=draws.randint(1, 6))) for _ in range(5000))
    (folder / "texts.txt").write_text("\n".join(strings))
    assert make_model([str(folder / "texts.txt"), "--order", "2", "-o", str(folder / "lm.arpa")]) == 0
    directory = RunDirectory(folder / "run")
    records = directory.commits()
    stored = describe_emissions(directory, records)
    points = load_decoders(
        "beam", [f"decoder.lm={folder / 'lm.arpa'}", f"decoder.lm_weight={','.join(map(str, WEIGHTS))}"]
    )
    found = [
        [100 * each.wer for each in search("beam", points, stored, part, 2, lambda done: None)]
        for part in draw_parts(directory, records, 1.0, seed=0)
    ]
    return found[0], found[1]


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = {row[0]: row for row in json.loads(RESULTS.read_text())["tables"][0]["rows"]}
    with tempfile.TemporaryDirectory() as name:
        chosen, measured = curves(Path(name))
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.0), width_ratios=[1.2, 1], layout="constrained")
    for place, (decoder, label) in enumerate(SHOWN.items()):
        wer, (low, high) = float(rows[decoder][1]), map(float, rows[decoder][2].split(" to "))
        left.barh(place, wer, color="#c9d2de")
        left.plot([low, high], [place, place], color=CHOSEN)
        left.text(high + 0.5, place, f"{label}: {wer:.1f} %", va="center")
    left.invert_yaxis()
    left.set(yticks=[], xlim=(0, 58), xlabel="WER on noisy digits, %, with 95 % intervals")
    right.plot(WEIGHTS, chosen, marker="o", color=CHOSEN, label="the part it is chosen on")
    right.plot(WEIGHTS, measured, marker="o", color=MEASURED, label="the other part")
    right.set(xlabel="decoder.lm_weight", ylabel="WER, %", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(options.out, dpi=140)


if __name__ == "__main__":
    main()
