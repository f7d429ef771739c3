"""`python -m pipeline.lm TEXTS ... -o lm.arpa` makes a language model of texts. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import counted, printable
from pipeline.storage.local_files import replacing

_USAGE = "python -m pipeline.lm TEXTS ... [--order N] [--letters] -o FILE"
_PAGE = """\
usage: python -m pipeline.lm TEXTS ... [option ...] -o FILE

Makes a language model of texts, for decoder=beam decoder.lm=FILE. TEXTS are
text files with a sentence on each line, tables (.csv, .tsv, .parquet) with a
column reference, text, transcript or sentence, or directories of runs, whose
references are taken. Do not take the references that you want to score.
The texts are normalised as references are before they are scored: lower
case, without punctuation. FILE has the ARPA format. For more than about a
hundred million words use lmplz of KenLM.

options
  -o, --out FILE    the file to write
  --order N         length of the longest n-grams, 2 to 6 (default: 4)
  --letters         make a model of letters, whose texts may have any words;
                    N is then a number of letters, such as 6
  -h, --help        this page

exit codes
  0    the model is written
  1    a file could not be read or written
  2    the texts have no words, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """Make a language model and return the exit code."""
    return command(arguments, _PAGE, _make, "no language model written")


def _make(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    # These imports are slow, and the help page does not need them.
    from pipeline.lm.kneser_ney import estimate
    from pipeline.lm.texts import read_texts

    def sentences() -> Iterator[str]:
        for path in given.texts:
            for text in read_texts(path):
                # `|` is the label between words, also of the checkpoints of transformers.
                yield " ".join(text.replace(" ", "|")) if given.letters else text

    try:
        model = estimate(sentences(), given.order)
    except ValueError:
        raise UserError(f"{' '.join(map(str, given.texts))}: no words; name files that have texts") from None
    with replacing(given.out) as partial, open(partial, "w", encoding="utf-8") as file:
        model.write(file)
    unit = "letter" if given.letters else "word"
    grams = sum(len(grams.word) for grams in model.orders)
    said = f"{given.out}: {counted(len(model.words) - 3, unit)}, {counted(grams, 'n-gram')} up to order {given.order}"
    console().print(printable(said), markup=False)
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("texts", metavar="TEXTS", type=place, nargs="+")
    parser.add_argument("-o", "--out", metavar="FILE", type=local_path, required=True)
    parser.add_argument("--order", metavar="N", type=int, default=4)
    parser.add_argument("--letters", action="store_true")
    given = parser.parse_intermixed_args(arguments)
    if not 2 <= given.order <= 6:
        raise UserError(f"--order={given.order}: must be from 2 to 6, as KenLM reads no other")
    if given.out.resolve() in {path.resolve() for path in given.texts}:
        raise UserError(f"--out={given.out}: is one of the texts, which would be lost; give another file")
    return given


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
