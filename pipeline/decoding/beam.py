"""Beam search with a language model, a lexicon and hotwords, by flashlight-text.

The search is the one behind torchaudio's `ctc_decoder`, which is a wrapper around flashlight-text. It is used directly,
because the wrapper needs torch, is deprecated, and does not return which label each frame has. From these labels come
the times and probabilities of the words, by the same rules as those of the greedy decoder.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.decoding import greedy
from pipeline.decoding.beam_search.language_model import model_files
from pipeline.decoding.beam_search.making import make_search
from pipeline.decoding.beam_search.search import Found
from pipeline.records import BestPath, Labels, UtteranceEmission
from pipeline.records.transcripts import Hypothesis, Transcript, Transcripts
from pipeline.runtime.errors import UserError

MAX_BEAM_SIZE = 10_000
TUNED = {"lm_weight": (0, 0.5, 1, 2, 4, 8, 16), "word_score": (-2, -1, 0, 1, 2)}
"""The values that `pipeline.tune` tries if none are given."""


@dataclass(unsafe_hash=True)
class Options:
    """`decoder.*` of `decoder=beam`.

    Attributes:
        beam_size: Hypotheses that are kept at each frame.
        nbest: Number of texts to keep of each utterance.
        lm: A language model of KenLM, as an ARPA file or a binary, or the folder of a checkpoint that has one.
        lm_weight: Factor of the language model's log10 probabilities; `None` for that of the folder, or 2.
        word_score: What each word of the lexicon adds to the score; `None` for that of the folder, or 0.
        lexicon: A file with the words that texts may have.
        hotwords: A file with words to prefer.
        hotword_weight: What a hotword without a weight of its own adds to the score.
    """

    beam_size: int = 50
    nbest: int = 1
    lm: str | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    lexicon: str | None = None
    hotwords: str | None = None
    hotword_weight: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be, and files that are not there.

        Raises:
            UserError: With the key, the value and what is allowed.
        """
        if not 1 <= self.beam_size <= MAX_BEAM_SIZE:
            raise UserError(f"decoder.beam_size={self.beam_size}: must be a whole number from 1 to {MAX_BEAM_SIZE}")
        if not 1 <= self.nbest <= self.beam_size:
            raise UserError(
                f"decoder.nbest={self.nbest}: must be a whole number from 1 to decoder.beam_size={self.beam_size}"
            )
        for key in ("lm_weight", "word_score", "hotword_weight"):
            value = getattr(self, key)
            if value is not None and not math.isfinite(value):
                raise UserError(f"decoder.{key}={value}: must be a finite number")
        if self.lm is None and self.lm_weight is not None:
            raise UserError(f"decoder.lm_weight={self.lm_weight}: needs decoder.lm=FILE, a language model")
        if self.lm is None and self.lexicon is None and self.word_score is not None:
            raise UserError(f"decoder.word_score={self.word_score}: needs decoder.lexicon=FILE, a list of words")
        for key, paths in self.files().items():
            for path in paths:
                if not path.is_file():
                    reason = "is no file" if path.exists() else "no such file"
                    raise UserError(f"decoder.{key}={getattr(self, key)}: {reason}; give a file that exists")

    def files(self) -> dict[str, list[Path]]:
        """The files that determine results, by the name of the option. Their content identifies a run."""
        found = {} if self.lm is None else {"lm": model_files(Path(self.lm))}
        texts = {"lexicon": self.lexicon, "hotwords": self.hotwords}
        return found | {key: [Path(path)] for key, path in texts.items() if path is not None}


class Decoder:
    """Searches for the best texts of emissions.

    The constructor reads all files and loads the language model. Forked processes share it; a pickled decoder loads it
    again.
    """

    wants_logits: ClassVar[bool] = True

    def __init__(self, options: Options, labels: Labels, seconds_per_frame: float) -> None:
        """Create the decoder. `labels` are in the order of the logits; `seconds_per_frame` is the stride in seconds.

        Raises:
            UserError: The extra `beam` is not installed, or a file does not fit the labels or is damaged.
        """
        self._arguments = options, labels, seconds_per_frame
        self._nbest = options.nbest
        self._search = make_search(options, labels)
        self._spell = greedy.Decoder(greedy.Options(), labels, seconds_per_frame)
        self._lower_case = labels.lower_case

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments: what flashlight holds in memory cannot be sent to another process."""
        return type(self), self._arguments

    def __call__(self, emissions: Sequence[UtteranceEmission]) -> Transcripts:
        """Decode utterances."""
        found = [self._search(each.logits) for each in emissions if each.logits is not None]
        assert len(found) == len(emissions), "the decoder wants logits"
        transcripts = self._transcripts([each[0] for each in found], [each.start_s for each in emissions])
        if self._nbest == 1:
            return transcripts
        hypotheses = [hypothesis for each in found for hypothesis in each]
        texts = self._transcripts(hypotheses, [0.0] * len(hypotheses)).text.to_list()
        ranked = map(Hypothesis, texts, [each.score for each in hypotheses])
        return replace(transcripts, nbest=tuple(tuple(itertools.islice(ranked, len(each))) for each in found))

    def _transcripts(self, found: Sequence[Found], starts_s: Sequence[float]) -> Transcripts:
        """Return the transcripts of hypotheses, by the rules of the greedy decoder."""
        paths = [BestPath(each.labels, each.logprobs) for each in found]
        spelled = self._spell(
            [UtteranceEmission(path, None, start) for path, start in zip(paths, starts_s, strict=True)]
        )
        if not any(each.words for each in found):
            return spelled
        return Transcripts.of([self._written(*each) for each in zip(spelled, found, strict=True)])

    def _written(self, spelled: Transcript, found: Found) -> Transcript:
        """Write the words as the lexicon does, where it says how they are spelled."""
        names = [word.lower() if self._lower_case else word for word in found.words]
        words = [replace(word, word=name) for word, name in zip(spelled.words, names, strict=False)]
        words += spelled.words[len(words) :]  # a word that had not ended yet
        return replace(spelled, text=" ".join(word.word for word in words), words=tuple(words))
