"""Draw the pictures of the report: a run over a small corpus like VOiCES, light, dark and on a phone.

Example:
    pip install playwright && apt-get install chromium
    python -m scripts.pictures.draw_report docs
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from pipeline.config.schema import ReportSettings
from pipeline.report import write_report
from pipeline.storage.run_directory import RunDirectory
from scripts.data.make_voices_like import make_corpus
from scripts.pictures.browser import at_each, opened
from scripts.pictures.saving import save

WIDTH, PHONE = 1280, 375
# A picture has room for the top, some rows of the table, and one utterance.
LIGHT = """
    #distributions, #speed, #scores h3, #scores .confusions, #scores .note, #failures, #configuration, footer,
    #utterances > h3, #utterances > .note, .keys, #utterances > .utterance:not(.pictured) { display: none }
    nav { display: none }
    .viewport { max-height: 258px }
    :root { --row: 12px }
"""
# What the first picture leaves out.
DARK = "nav, #summary, #utterances, #suspects, #configuration, footer { display: none }"
PHONE_STYLE = "#utterances > .utterance:not(.pictured) { display: none }"
SHOW_ONE = """() => {
    const words_of = (each, kind) => each.querySelectorAll(".pair" + kind).length;
    const wrong = each => words_of(each, ".sub") + words_of(each, ".del") + words_of(each, ".ins");
    const telling = each => wrong(each) ? words_of(each, "") - 1.5 * wrong(each) : -1000;
    const all = [...document.querySelectorAll(".utterance")];
    const one = all.sort((a, b) => telling(b) - telling(a))[0];
    one.open = true;
    one.classList.add("pictured");
    const words = one.querySelectorAll(".word");
    words[Math.floor(words.length / 2)].click();
}"""


def main() -> None:
    """Write three PNGs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run-dir", type=Path, help="a run that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-") as work:
        run = RunDirectory(options.run_dir or _run(Path(work)))
        path = write_report(run, ReportSettings(utterances=20, layers=[1, 4]))
        with opened(path, work, WIDTH, style=LIGHT) as page:
            page.locator("#explorer .line").first.wait_for()
            page.evaluate(SHOW_ONE)
            page.wait_for_timeout(1_000)
            save(page.screenshot(full_page=True), options.folder / "report.png")
        with opened(path, work, WIDTH, "dark", DARK) as page:
            save(page.screenshot(full_page=True), options.folder / "report-dark.png", 64)
        with opened(path, work, PHONE, style=PHONE_STYLE) as page:
            page.locator("#explorer .line").first.wait_for()
            page.evaluate(SHOW_ONE)
            screens = at_each(page, ("body", "#utterances", ".pictured"))
            save(_side_by_side(screens), options.folder / "report-narrow.png")


def _run(work: Path) -> Path:
    """A run whose folder has a short name, for it stands in the picture."""
    make_corpus(work / "VOiCES_devkit")
    command = [
        *(sys.executable, "-m", "pipeline.run", "dataset=voices", "dataset.root=VOiCES_devkit", "model=digits"),
        *("features.layers=all", "score.by=[distractor,room+distractor]", "run_dir=run"),
        "stages=[manifest,infer,score]",
    ]
    ended = subprocess.run(command, cwd=work, check=False)
    if ended.returncode not in (0, 3):
        sys.exit(ended.returncode)
    return work / "run"


def _side_by_side(screens: list[bytes], space: int = 24) -> Image.Image:
    opened_ones = [Image.open(io.BytesIO(screen)).convert("RGB") for screen in screens]
    width, height = opened_ones[0].size
    canvas = Image.new("RGB", (len(screens) * (width + space) - space, height), "#9aa3ad")
    for place, image in enumerate(opened_ones):
        canvas.paste(image, (place * (width + space), 0))
    return canvas


if __name__ == "__main__":
    main()
