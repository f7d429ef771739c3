"""Make every picture of the guide, and say which ones may be out of date.

Example:
    make pictures                       # all of them, about five minutes on two cores
    make pictures ARGS=report.png       # those that the same script draws as report.png
    make pictures ARGS=--check          # which ones may be out of date; draws nothing

Pixels differ from machine to machine, so `--check` does not compare them. `drawn.json` has the SHA-256 of each picture,
and of the code that it shows, as both were when the picture was drawn. If the code has changed since, the picture may
be out of date. If the picture has changed, it does not come from its script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS, FOLDER = ROOT / "docs", Path(__file__).resolve().parent
DRAWN = FOLDER / "drawn.json"
EXAMPLE = "theo-6digits-34.flac"
TEXTS = (".py", ".html", ".css", ".js", ".json")


@dataclass(frozen=True)
class Drawing:
    """A script with the pictures that it draws.

    Attributes:
        script: Name of the module.
        pictures: The files that it writes into docs/.
        shows: Files and folders whose content the pictures show; the script itself is one too.
        arguments: Its arguments. `{run}` is a run with `dataset=digits`, `{docs}` the folder docs.
    """

    script: str
    pictures: tuple[str, ...]
    shows: tuple[str, ...]
    arguments: tuple[str, ...] = ("{docs}",)

    def digest(self) -> str:
        """SHA-256 of the code that the pictures show."""
        found = hashlib.sha256()
        for path in sorted(_files((f"scripts/pictures/{self.script}.py", *self.shows))):
            found.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
        return found.hexdigest()


DRAWINGS = (
    Drawing("draw_picture", ("picture.png",), (), ("{run}", EXAMPLE, "{docs}/picture.png")),
    Drawing("draw_plots", ("plots-feature.png", "plots-emission.png", "plots-logprobs.png"),
            ("pipeline/plot.py", *(f"pipeline/report/{name}.py" for name in ("excerpts", "figures", "labels")))),
    Drawing("draw_report", ("report.png", "report-dark.png", "report-narrow.png"), ("pipeline/report",)),
    Drawing("draw_pages", ("compare.png", "suspects.png"), ("pipeline/report", "pipeline/compare")),
    Drawing("draw_terminal", ("terminal.svg", "terminal-checks.svg"),
            ("pipeline/run.py", "pipeline/status.py", "pipeline/scoring", "pipeline/verify")),
    Drawing("draw_alignment", ("alignment.png",), ("pipeline/decoding/alignment",),
            ("{run}", EXAMPLE, "4", "eight", "{docs}/alignment.png")),
    Drawing("draw_cluster", ("cluster.png",), ("scripts/results/cluster-cpu.json",),
            ("scripts/results/cluster-cpu.json", "{docs}/cluster.png")),
    Drawing("draw_decoders", ("decoders.png",), ("pipeline/tune", "pipeline/lm", "scripts/results/beam-cpu.json"),
            ("{docs}/decoders.png",)),
    Drawing("draw_export", ("export.png",), ("pipeline/export",), ("{docs}/export.png",)),
    Drawing("draw_sampling", ("sampling.png",), ("pipeline/sample",), ("{docs}/sampling.png",)),
    Drawing("draw_voice_activity", ("voice-activity.png",), ("pipeline/vad", "pipeline/scoring/coverage"),
            ("{docs}/voice-activity.png",)),
)  # fmt: skip


def sha256(path: Path) -> str:
    """SHA-256 of a picture."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str]) -> int:
    """Draw pictures, or name those that may be out of date. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="draw nothing; name the pictures that may be out of date")
    parser.add_argument("pictures", nargs="*", help="only the scripts that draw these files (default: every script)")
    options = parser.parse_args(arguments)
    known = {picture: drawing for drawing in DRAWINGS for picture in drawing.pictures}
    for picture in options.pictures:
        if picture not in known:
            parser.error(f"{picture}: no such picture; there are {', '.join(known)}")
    chosen = dict.fromkeys(known[picture] for picture in options.pictures or known)
    return _check(chosen) if options.check else _draw(chosen)


def _check(drawings: Iterable[Drawing]) -> int:
    noted = json.loads(DRAWN.read_text())
    old = [
        picture
        for drawing in drawings
        for digest in [drawing.digest()]
        for picture in drawing.pictures
        if noted.get(picture) != {"picture": sha256(DOCS / picture), "shows": digest}
    ]
    for picture in old:
        print(f"{picture} may be out of date: what it shows has changed; make pictures ARGS={picture}")
    return 1 if old else 0


def _draw(drawings: Iterable[Drawing]) -> int:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "digits"
        for drawing in drawings:
            if "{run}" in drawing.arguments and not run.exists():
                _python("-m", "pipeline.run", "dataset=digits", f"run_dir={run}", "stages=[manifest,infer]")
            filled = [argument.format(run=run, docs=DOCS) for argument in drawing.arguments]
            _python("-m", f"scripts.pictures.{drawing.script}", *filled)
            noted = json.loads(DRAWN.read_text()) if DRAWN.exists() else {}
            digest = drawing.digest()
            noted |= {picture: {"picture": sha256(DOCS / picture), "shows": digest} for picture in drawing.pictures}
            DRAWN.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n")
    return 0


def _python(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    if ended.returncode:
        sys.exit(f"error: {' '.join(arguments)} ended with {ended.returncode}")


def _files(paths: Iterable[str]) -> set[Path]:
    """The texts below the paths."""
    given = [ROOT / path for path in paths]
    found = {each for path in given for each in ([path] if path.is_file() else path.rglob("*"))}
    return {path for path in found if path.suffix in TEXTS}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
