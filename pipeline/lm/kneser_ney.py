"""Estimates an n-gram model with interpolated modified Kneser-Ney smoothing, and writes it in the ARPA format.

Formulas and names are those of Heafield, Pouzyrevsky, Clark and Koehn, "Scalable Modified Kneser-Ney Language Model
Estimation" (ACL 2013), section 3. They are those of KenLM's `lmplz --discount_fallback`, which no package of Python
contains. Of the packages that write ARPA files, arpabo 0.3 does not smooth to a probability distribution, and
kaldingram 0.1 gives probability 0 to what it has seen, where a text is so short that no n-gram occurs twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

_MARKS = ("<unk>", "<s>", "</s>")
_UNKNOWN, _BEGIN, _END = range(3)
"""The numbers of these words."""
_FALLBACK = np.asarray([0.0, 0.5, 1.0, 1.5])
"""Discounts of texts that are too short to estimate them, as in `lmplz --discount_fallback`."""
_NEVER = -99.0
"""What ARPA files write for the logarithm of 0."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, in any order.

    Attributes:
        prefix: `(grams,)` the place of the n-gram without its last word, among those that are one word shorter.
        suffix: `(grams,)` the place of the n-gram without its first word.
        word: `(grams,)` the last word.
        count: `(grams,)` the adjusted count: how often it occurs, or for the lower orders, after how many words.
        log10: `(grams,)` the logarithm of the probability of the last word after the others.
        backoff: `(grams,)` the logarithm of the weight with which shorter n-grams count after this one.
    """

    prefix: NDArray[np.int64]
    suffix: NDArray[np.int64]
    word: NDArray[np.int64]
    count: NDArray[np.int64]
    log10: NDArray[np.float64]
    backoff: NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """An n-gram model: the words by their number, and the n-grams of each order. The first unigram is `<unk>`."""

    words: list[str]
    orders: list[Grams]

    def write(self, file: TextIO) -> None:
        """Write the model in the ARPA format."""
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={len(grams.word)}\n" for order, grams in enumerate(self.orders, 1))
        texts = [""]
        for order, grams in enumerate(self.orders, 1):
            places = zip(grams.prefix.tolist(), grams.word.tolist(), strict=True)
            texts = [f"{texts[prefix]} {self.words[word]}".lstrip() for prefix, word in places]
            file.write(f"\n\\{order}-grams:\n")
            last = order == len(self.orders)
            rows = zip(grams.log10.tolist(), texts, grams.backoff.tolist(), strict=True)
            file.writelines(f"{p:.7g}\t{text}\n" if last else f"{p:.7g}\t{text}\t{b:.7g}\n" for p, text, b in rows)
        file.write("\n\\end\\\n")


def estimate(sentences: Iterable[str], order: int) -> Model:
    """Estimate a model.

    Args:
        sentences: Texts whose words are separated by blanks.
        order: Length of the longest n-grams, 2 or more.

    Raises:
        ValueError: The texts have no words.
    """
    words, tokens = _numbered(sentences)
    if not len(tokens):
        raise ValueError("no words")
    counted = list(_counted(tokens, len(words), order))
    orders: list[Grams] = []
    for place, (prefix, suffix, word, count) in enumerate(counted):
        if place + 1 < order:
            # Words before the n-gram; none is before one that begins a sentence, which counts as often as it occurs.
            before = np.bincount(counted[place + 1][1], minlength=len(count))
            count = np.where(before > 0, before, count)
        if place == 0:
            count[[_UNKNOWN, _BEGIN]] = 0  # no text continues with these
        discount = _discounts(count)[np.minimum(count, 3)]
        contexts = 1 if place == 0 else len(orders[-1].word)
        total = np.bincount(prefix, count, contexts)
        weight = np.bincount(prefix, discount, contexts) / np.where(total > 0, total, 1)
        lower = 1 / (len(words) - 1) if place == 0 else 10 ** orders[-1].log10[suffix]
        probability = (count - discount) / total[prefix] + weight[prefix] * lower
        if place > 0:
            seen = weight > 0
            orders[-1].backoff[seen] = np.log10(weight[seen])
        log10 = np.log10(probability)
        if place == 0:
            log10[_BEGIN] = _NEVER
        orders.append(Grams(prefix, suffix, word, count, log10, np.zeros(len(word))))
    return Model(words, orders)


def _numbered(sentences: Iterable[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the words by their number, and the numbers of all sentences, each between `<s>` and `</s>`."""
    numbers = {mark: number for number, mark in enumerate(_MARKS)}
    tokens: list[int] = []
    for sentence in sentences:
        said = [numbers.setdefault(word, len(numbers)) for word in sentence.split()]
        tokens += [_BEGIN, *said, _END] if said else []
    return [*numbers], np.asarray(tokens, np.int64)


def _counted(
    tokens: NDArray[np.int64], num_words: int, order: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield prefix, suffix, last word and number of occurrences of the n-grams of each order, as in `Grams`."""
    everything = np.arange(num_words)
    nothing = np.zeros(num_words, np.int64)
    yield nothing, nothing, everything, np.bincount(tokens, minlength=num_words)
    places, grams = np.arange(len(tokens)), tokens  # where each n-gram begins, and which it is
    at = grams
    for length in range(2, order + 1):
        inside = tokens[places + length - 2] != _END  # an n-gram does not go on after </s>
        places = places[inside]
        keys = at[places] * num_words + tokens[places + length - 1]
        _, first, grams, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        yield at[places[first]], at[places[first] + 1], tokens[places[first] + length - 1], count
        at = np.full(len(tokens), -1)
        at[places] = grams


def _discounts(count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what is taken from counts of 0, 1, 2 and 3 or more (Chen and Goodman 1998)."""
    n = np.bincount(np.minimum(count, 5), minlength=6)[1:5]
    if not n[:3].all():  # n[3] may be 0, as for lmplz
        return _FALLBACK
    ratio = n[0] / (n[0] + 2 * n[1])
    found = np.asarray([0.0, *(each - (each + 1) * ratio * n[each] / n[each - 1] for each in (1, 2, 3))])
    return found if (found >= 0).all() else _FALLBACK
