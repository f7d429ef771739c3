"""Small language models in the ARPA format, with plain relative frequencies and a constant back-off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_arpa(path: Path, words: Sequence[str], bigrams: Sequence[tuple[str, str]]) -> str:
    """Write a bigram model: all words are equally likely, and after a word, those that follow it in `bigrams`."""
    followers = {first: sum(1 for each, _ in bigrams if each == first) for first, _ in bigrams}
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len({*bigrams})}", "", "\\1-grams:"]
    lines += ["-9\t<unk>", "-99\t<s>\t-0.3", "-0.8\t</s>", *(f"-0.8\t{word}\t-0.3" for word in words)]
    lines += ["", "\\2-grams:"]
    lines += [f"{-0.2 * followers[first]:.2f}\t{first} {second}" for first, second in dict.fromkeys(bigrams)]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return str(path)
