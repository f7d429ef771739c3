"""Draw the picture of the report for the README: part of the report of a run over a small corpus like VOiCES.

Example:
    pip install playwright && apt-get install chromium
    python -m scripts.pictures.draw_report docs/report.png
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.config.schema import ReportSettings
from pipeline.report import write_report
from pipeline.storage.run_directory import RunDirectory
from scripts.data.make_voices_like import make_corpus

WIDTH = 1280
NAMES = ("chromium", "chromium-browser", "google-chrome")
# A picture has room for the top, some rows of the table, and one utterance.
LEFT_OUT = """
    #distributions, #speed, #scores h3, #scores .confusions, #scores .note, #failures, #configuration, footer,
    #utterances > h3, #utterances > .note, .keys, #utterances > .utterance:not(.pictured) { display: none }
    nav { display: none }
    .viewport { max-height: 258px }
    :root { --row: 12px }
"""
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
# Where the picture was made is nobody's concern.
SHORTEN = """work => {
    for (const each of document.querySelectorAll("dd bdi, .path bdi"))
        each.textContent = each.textContent.replace(work, "/data");
}"""


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--run-dir", type=Path, help="a run that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-") as work:
        path = write_report(
            RunDirectory(options.run_dir or _run(Path(work))), ReportSettings(utterances=20, layers=[1, 4])
        )
        picture = _screenshot(path, work)
    # A palette takes a third of the bytes.
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(options.out, optimize=True)
    print(f"{options.out}: {image.width} x {image.height}, {options.out.stat().st_size / 1000:.0f} kB")


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


def _screenshot(path: Path, work: str) -> bytes:
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit(f"error: none of {', '.join(NAMES)} is installed; apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        context = started.new_context(
            viewport={"width": WIDTH, "height": 900}, color_scheme="light", bypass_csp=True, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(path.as_uri())
        page.add_style_tag(content=LEFT_OUT)
        page.locator("#explorer .line").first.wait_for()
        page.evaluate(SHOW_ONE)
        page.evaluate(SHORTEN, work)
        page.wait_for_timeout(1_000)
        picture = page.screenshot(full_page=True)
        started.close()
    return picture


if __name__ == "__main__":
    main()
