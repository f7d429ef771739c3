"""Makes the search that options describe: reads the files, and hands words and language model to flashlight-text."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.decoding.beam_search.language_model import LanguageModel, open_model, refuse_damaged
from pipeline.decoding.beam_search.search import Search, delimiter_of
from pipeline.decoding.beam_search.words import Entry, Speller, read_hotwords, read_lexicon
from pipeline.records import Labels
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.decoding.beam import Options

_LABELS_PER_FRAME = 10
"""The best labels of a frame, which are tried. To try all takes twice the time and gives no better texts, even of the
noisy digits of `scripts/bench/beam.py`."""
_BEAM_THRESHOLD = 50.0
"""Hypotheses whose score is further below the best one are dropped, as torchaudio's `ctc_decoder` does."""
_SUMS_PATHS = True
"""The probability of a text is that of all paths that spell it, as CTC defines it, and not that of the best path."""


def make_search(options: Options, labels: Labels) -> Search:
    """Return the search that the options describe. The last one is kept, so that the language model is loaded once.

    Raises:
        UserError: The extra `beam` is not installed, or a file does not fit the labels or is damaged.
    """
    _require_packages(*(("flashlight", "kenlm") if options.lm else ("flashlight",)))
    versions: list[tuple[int, int]] = []
    for key, paths in options.files().items():
        for path in paths:
            try:
                stat = path.stat()
            except OSError as error:  # on another machine, where the decoder was sent
                reason = f"{error.strerror}; every machine that computes needs the file in this place"
                raise UserError(f"decoder.{key}={path}: {reason}") from None
            versions.append((stat.st_size, stat.st_mtime_ns))
    return _make_search(options, labels, tuple(versions))


def _require_packages(*names: str) -> None:
    """Refuse to search without these packages, before any file is read."""
    if all(importlib.util.find_spec(name) for name in names):
        return
    if sys.version_info >= (3, 13):
        remedy = f"which has no release for Python 3.{sys.version_info[1]}; use Python 3.11 or 3.12"
        raise UserError(f"decoder=beam: needs flashlight-text, {remedy}, or decoder=greedy")
    raise UserError(
        "decoder=beam: needs flashlight-text and kenlm; pip install 'overnight-speech[beam]', or use decoder=greedy"
    )


@lru_cache(maxsize=1)
def _make_search(options: Options, labels: Labels, files: tuple[tuple[int, int], ...]) -> Search:
    """As `make_search`; sizes and times of the files tell whether they have changed."""
    if delimiter_of(labels) is None and (options.lexicon or options.hotwords):
        key, value = ("lexicon", options.lexicon) if options.lexicon else ("hotwords", options.hotwords)
        raise UserError(
            f"decoder.{key}={value}: the labels of the model have no label between words, so every label is a word "
            f"of its own; leave decoder.{key} out"
        )
    model = None if options.lm is None else open_model(Path(options.lm), labels)
    entries = _lexicon(options, model, labels)
    hotwords: dict[Entry, float] = {}
    if options.hotwords:
        hotwords = read_hotwords(Path(options.hotwords), options.hotword_weight, labels, entries or ())
    if entries is None:
        return _search_labels(options, model, hotwords, labels)
    return _search_words(options, model, entries, hotwords, labels)


def _lexicon(options: Options, model: LanguageModel | None, labels: Labels) -> list[Entry] | None:
    """Return the words that texts may have; `None` if they may have any, and the language model is one of labels."""
    of_labels = model is not None and (delimiter_of(labels) is None or labels.delimiter in model.vocabulary)
    if options.lexicon is not None:
        if of_labels:
            raise UserError(
                f"decoder.lm={options.lm}: is a model of letters, which needs no words; leave decoder.lexicon out"
            )
        return read_lexicon(Path(options.lexicon), labels)
    if model is None or of_labels:
        return None
    if model.words is None:
        raise UserError(
            f"decoder.lm={options.lm}: is a binary, which does not list its words; add decoder.lexicon=FILE with one "
            f"word a line, or give the ARPA file"
        )
    speller = Speller(labels)
    entries = [Entry(word, spelling) for word in model.words if (spelling := speller(word))]
    if not entries:
        raise UserError(
            f"decoder.lm={options.lm}: the labels of the model can spell none of its words; they are "
            f"{' '.join(labels.names)}; give a language model of the same language"
        )
    return entries


def _search_labels(
    options: Options, model: LanguageModel | None, hotwords: Mapping[Entry, float], labels: Labels
) -> Search:
    """Search for any sequence of labels."""
    from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions

    from pipeline.decoding.beam_search.hotwords import LabelBoost

    if options.word_score is not None:
        raise UserError(
            f"decoder.word_score={options.word_score}: needs a lexicon or a language model of words; "
            f"add decoder.lexicon=FILE, or leave decoder.word_score out"
        )
    forms = [_form(name, model) for name in labels.names]
    if model is not None and not any(form in model.vocabulary for form in forms):
        raise UserError(
            f"decoder.lm={options.lm}: knows none of the labels of the model, each of which is a word; they are "
            f"{' '.join(labels.names)}; give a language model of these words"
        )
    keeps, weight = [_load(model, forms)], _weight(options, model)
    if hotwords:
        spelled = {entry.spelling: own for entry, own in hotwords.items()}
        keeps.append(LabelBoost(keeps[0], weight, spelled, labels.names.index(labels.delimiter)))
        weight = 1.0
    tried = min(len(labels.names), _LABELS_PER_FRAME)
    settings = LexiconFreeDecoderOptions(
        options.beam_size, tried, _BEAM_THRESHOLD, weight, 0.0, _SUMS_PATHS, CriterionType.CTC
    )
    silence = delimiter_of(labels)
    decoder = LexiconFreeDecoder(settings, keeps[-1], -1 if silence is None else silence, labels.blank, [])
    return Search(decoder, keeps, labels, options.nbest)


def _search_words(
    options: Options,
    model: LanguageModel | None,
    entries: Sequence[Entry],
    hotwords: Mapping[Entry, float],
    labels: Labels,
) -> Search:
    """Search for sequences of the words of a lexicon. Hotwords are words of the lexicon too."""
    from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions, SmearingMode, Trie

    from pipeline.decoding.beam_search.hotwords import WordBoost

    if model is not None and not any(_form(entry.word, model) in model.vocabulary for entry in entries):
        raise UserError(
            f"decoder.lexicon={options.lexicon}: decoder.lm={options.lm} knows none of its words; give the language "
            f"model and the lexicon of one language"
        )
    spelled: dict[str, dict[tuple[int, ...], None]] = {}  # the spellings of each word
    for entry in [*entries, *hotwords]:
        spelled.setdefault(_form(entry.word, model), {})[entry.spelling] = None
    words = {word: index for index, word in enumerate(spelled)}
    keeps, weight = [_load(model, [*words])], _weight(options, model)
    if hotwords:
        own = {words[_form(entry.word, model)]: own for entry, own in hotwords.items()}
        keeps.append(WordBoost(keeps[0], weight, own))
        weight = 1.0
    silence = delimiter_of(labels)
    trie, scores = Trie(len(labels.names), silence), keeps[-1]
    begin = scores.start(False)
    for word, spellings in spelled.items():
        score = scores.score(begin, words[word])[1]
        for spelling in spellings:
            trie.insert([*spelling, silence], words[word], score)
    trie.smear(SmearingMode.MAX)
    word_score = options.word_score if options.word_score is not None else model.word_score if model else 0.0
    tried = min(len(labels.names), _LABELS_PER_FRAME)
    settings = LexiconDecoderOptions(
        options.beam_size, tried, _BEAM_THRESHOLD, weight, word_score, -np.inf, 0.0, _SUMS_PATHS, CriterionType.CTC
    )
    decoder = LexiconDecoder(settings, trie, scores, silence, labels.blank, -1, [], False)
    written = None
    if any(entry.given for entry in entries):
        by_form = {_form(entry.word, model): entry.word for entry in reversed([*entries, *hotwords])}
        written = [by_form[word] for word in words]
    return Search(decoder, [*keeps, trie], labels, options.nbest, written, whole_words=True)


def _form(word: str, model: LanguageModel | None) -> str:
    """Return a word as the language model writes it, in its own case or in upper or lower case."""
    forms = (word, word.lower(), word.upper())
    return word if model is None else next((form for form in forms if form in model.vocabulary), word)


def _weight(options: Options, model: LanguageModel | None) -> float:
    if options.lm_weight is not None:
        return options.lm_weight
    return 1.0 if model is None else model.weight


def _load(model: LanguageModel | None, words: Sequence[str]) -> Any:
    """Load a language model for words that have the indices 0, 1, 2 and so on."""
    from flashlight.lib.text.decoder import ZeroLM
    from flashlight.lib.text.dictionary import Dictionary

    if model is None:
        return ZeroLM()
    from flashlight.lib.text.decoder.kenlm import KenLM  # needs the package kenlm

    dictionary = Dictionary()
    for index, word in enumerate(words):
        dictionary.add_entry(word, index)
    try:
        with quiet_stderr():
            return KenLM(str(model.path), dictionary)
    except RuntimeError as error:
        raise refuse_damaged(model.path, error) from None


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Leave out what KenLM writes to stderr while it loads a file; no option turns that off."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
