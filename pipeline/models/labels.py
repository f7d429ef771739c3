"""Label sets of CTC heads, in the order of their logits, and files of labels. Tested against torchaudio."""

from __future__ import annotations

from pathlib import Path

BLANK = "-"
WORD_BOUNDARY = "|"

ENGLISH_LABELS = (BLANK, WORD_BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""Blank, word boundary and letters of the English ASR bundles."""

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "english": ENGLISH_LABELS,
    "voxpopuli_en": (BLANK, WORD_BOUNDARY, *"etoiansrhldcumpfgwybvkxjqz"),
    "voxpopuli_es": (BLANK, WORD_BOUNDARY, *"eaosnrildctupmbqygvhófíájzñéxúkwü"),
    "voxpopuli_de": (BLANK, WORD_BOUNDARY, *"enirstadhulgcmobwfkzpvüäöjßyxq"),
    "voxpopuli_fr": (BLANK, WORD_BOUNDARY, *"esnitraouldcpmévqfgbhxàjèyêzôkçœûùîâwïëüæ"),
    "voxpopuli_it": (BLANK, WORD_BOUNDARY, *"eiaontrlscdupmgvhzfbqàèùéòìkyxwjóíï"),
    # Letters of romanised text, for alignment: no word boundary, hence no transcripts.
    "mms_fa": (BLANK, *"aienoutsrmkldghybpwcvjzf'qx"),
}
"""What `model.labels` may name. The first label of each is the blank."""

FAIRSEQ_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The labels that fairseq puts before those of a dictionary. The first one is the blank, and none is part of a text.

Source: fairseq/data/dictionary.py, and `blank_symbol` in fairseq/tasks/audio_finetuning.py.
"""


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a file of labels, in the order of the logits.

    Its lines are `LABEL COUNT` as in fairseq's dict.ltr.txt, `LABEL INDEX` with the indices 0, 1, 2 and so on, or one
    label each. The labels of a dictionary of fairseq begin with `FAIRSEQ_SPECIAL`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is none of these, with the reason.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8") from None
    rows = [line.split() for line in lines]
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise ValueError("is empty")
    numbered = all(len(row) == 2 and row[1].isdecimal() for row in rows)
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != 1), None)
    if wrong is not None and not numbered:
        raise ValueError(f"line {wrong} is neither a label, nor a label and a number, as every line must be")
    labels = tuple(row[0] for row in rows)
    if numbered and [int(row[1]) for row in rows] != list(range(len(rows))):
        return (*FAIRSEQ_SPECIAL, *labels)
    return labels
