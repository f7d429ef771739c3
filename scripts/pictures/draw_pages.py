"""Draw the comparison of two runs, and the suspect references of a report, as a browser shows them.

Example:
    python -m scripts.pictures.draw_pages docs

The comparison is of the shipped model with chunks of 60 seconds and of two seconds, over noisy digits. The suspect
references are those of shipped recordings, two of which are given a wrong reference.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from pipeline.compare.__main__ import main as compare
from pipeline.datasets import SHIPPED
from pipeline.results import open_run
from pipeline.run import main as run
from scripts.data.make_voices_like import make_corpus
from scripts.pictures.browser import opened
from scripts.pictures.saving import save

WIDTH = 1280
WRONG = {"theo-6digits-34.flac": "five five two eight seven zero", "jackson-5digits-25.flac": "one three six nine two"}
RECORDINGS = (*WRONG, "theo-5digits-28.flac", "george-5digits-24.flac", "nicolas-6digits-33.flac")
ONLY_SUSPECTS = """
    main > section:not(#suspects), nav, header, footer { display: none }
    #suspects .utterance ~ .utterance, #suspects .picture.feature { display: none }
    #suspects { padding: 16px 24px; border: 0 }
"""
ONE_UTTERANCE = """
    nav, footer, .utterance:not(.pictured), #utterances h3:not(:has(+ .pictured)) { display: none }
"""
OPEN_ONE = """selector => {
    const one = document.querySelector(selector);
    one.open = true;
    one.classList.add("pictured");
}"""


def compared(work: Path) -> Path:
    """The page of a comparison."""
    make_corpus(work / "corpus", damaged=False)
    given = ["dataset=voices", f"dataset.root={work / 'corpus'}", "model=digits", "stages=[manifest,infer,score]"]
    for name, chunk in (("whole", []), ("chunks", ["chunk.seconds=2", "chunk.context_seconds=0.2"])):
        assert run([*given, *chunk, "outputs=[transcripts,emissions]", f"run_dir={work / name}"]) == 0
    given = [str(work / "whole"), str(work / "chunks"), "--by", "distractor", "--html", "--out", str(work / "compared")]
    assert compare(given) == 0
    return work / "compared" / "comparison.html"


def aligned(work: Path) -> Path:
    """The report of a run whose references are aligned."""
    (work / "calls").mkdir()
    references = open_run(work / "digits").manifest.set_index("id").reference
    for name in RECORDINGS:
        shutil.copy(SHIPPED / "digits" / name, work / "calls" / name)
        (work / "calls" / name).with_suffix(".txt").write_text(WRONG.get(name, references[name]))
    given = ["dataset=folder", f"dataset.root={work / 'calls'}", "model=digits", f"run_dir={work / 'aligned'}"]
    assert run([*given, "stages=[manifest,infer,align,score,report]", "outputs=[transcripts,emissions]"]) == 0
    return work / "aligned" / "report" / "index.html"


def main() -> None:
    """Write two PNGs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory(prefix="pages-") as name:
        work = Path(name)
        assert run(["dataset=digits", "stages=[manifest]", f"run_dir={work / 'digits'}"]) == 0
        with opened(compared(work), name, WIDTH, style=ONE_UTTERANCE) as page:
            page.evaluate(OPEN_ONE, ".utterance")
            page.wait_for_timeout(500)
            save(page.screenshot(full_page=True), folder / "compare.png", 128)
        with opened(aligned(work), name, WIDTH, style=ONLY_SUSPECTS) as page:
            page.evaluate(OPEN_ONE, "#suspects .utterance")
            page.wait_for_timeout(500)
            save(page.locator("#suspects").screenshot(), folder / "suspects.png", 128)


if __name__ == "__main__":
    main()
