"""Label sets of CTC heads, in the order of their logits. Tested against torchaudio."""

from __future__ import annotations

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
