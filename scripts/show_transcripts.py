"""Print the transcripts of a run beside their references: `python scripts/show_transcripts.py RUN_DIR`.

Words that differ are coloured: red in the transcript (wrong or added), yellow in the reference (missed or replaced).
The last line is the word error rate over all utterances, including those that are not shown.
"""

from __future__ import annotations

import sys

import pandas as pd
from rapidfuzz.distance import Levenshtein
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.results import open_run
from pipeline.runtime.errors import UserError
from pipeline.scoring.normalisers import standard

MAX_ROWS = 40
PLAIN_WIDTH = 110  # columns where the output is not a terminal


def side_by_side(reference: str, text: str) -> tuple[Text, Text]:
    """Reference and transcript with the differing words coloured."""
    spoken, read = reference.split(), text.split()
    shown_spoken, shown_read = [Text(word) for word in spoken], [Text(word) for word in read]
    edits = Levenshtein.editops([standard(word) for word in spoken], [standard(word) for word in read])
    for edit in edits:
        if edit.tag in ("replace", "delete"):
            shown_spoken[edit.src_pos].stylize("yellow")
        if edit.tag in ("replace", "insert"):
            shown_read[edit.dest_pos].stylize("bold red")
    return Text(" ").join(shown_spoken), Text(" ").join(shown_read)


def transcript_table(transcripts: pd.DataFrame) -> Table:
    """One row an utterance, at most `MAX_ROWS`."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("utterance", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("transcript", overflow="fold")
    table.add_column("WER", justify="right", no_wrap=True)
    for row in transcripts.head(MAX_ROWS).itertuples():
        if pd.isna(row.reference):
            table.add_row(Text(row.id), Text("-", style="dim"), Text(row.text), "-")
            continue
        reference, text = side_by_side(row.reference, row.text)
        rate = "-" if pd.isna(row.wer) else f"{100 * row.wer:.1f} %"
        table.add_row(Text(row.id), reference, text, rate)
    return table


def wer_line(transcripts: pd.DataFrame) -> str:
    """Word errors over words of the references, summed over all utterances."""
    scored = transcripts[transcripts["reference_words"].notna()]
    words = int(scored["reference_words"].sum())
    if words == 0:
        return "WER unknown (no references)"
    errors = int(scored["word_errors"].sum())
    return f"WER {100 * errors / words:.1f} % ({errors} of {words} words)"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python scripts/show_transcripts.py RUN_DIR", file=sys.stderr)
        return 2
    try:
        transcripts = open_run(arguments[0]).transcripts
    except (UserError, FileNotFoundError) as error:
        print(f"show_transcripts: {error}", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="replace")  # an id or a word that the terminal's encoding lacks
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(transcript_table(transcripts))
    if len(transcripts) > MAX_ROWS:
        console.print(f"and {len(transcripts) - MAX_ROWS:,} more")
    console.print(wer_line(transcripts), style="bold", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
