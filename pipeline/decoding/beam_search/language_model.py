"""Reads what a language model of KenLM says about itself: its words, and the settings of a checkpoint's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.decoding.beam_search.words import read_lines
from pipeline.records import Labels
from pipeline.runtime.errors import UserError

FOLDER, ALPHABET, UNIGRAMS, ATTRIBUTES = "language_model", "alphabet.json", "unigrams.txt", "attrs.json"
"""Names in the folder of a checkpoint that pyctcdecode and transformers' Wav2Vec2ProcessorWithLM write."""
_BINARY = b"mmap lm http://kheafield.com/code"
"""How a binary of KenLM begins."""
_MARKS = ("<s>", "</s>", "<unk>", "<UNK>")


@dataclass(frozen=True)
class LanguageModel:
    """A language model.

    Attributes:
        path: The ARPA file or the binary.
        vocabulary: The words, for `in`.
        words: The words as a list; `None` for a binary, which does not list them.
        weight: The factor of log10 probabilities that the checkpoint's folder asks for, or 2.
        word_score: The score of a word that the checkpoint's folder asks for, or 0.
    """

    path: Path
    vocabulary: Container[str]
    words: list[str] | None
    weight: float = 2.0
    word_score: float = 0.0


def model_files(path: Path) -> list[Path]:
    """The files of a language model: the file itself, or those of a checkpoint's folder.

    Raises:
        UserError: A folder is not that of a checkpoint with a language model.
    """
    if not path.is_dir():
        return [path]
    inside = path / FOLDER
    models = sorted([*inside.glob("*.arpa"), *inside.glob("*.bin"), *inside.glob("*.binary")])
    if not (path / ALPHABET).is_file() or len(models) != 1:
        raise UserError(
            f"decoder.lm={path}: a folder must have {ALPHABET} and one .arpa or .bin file in {FOLDER}/, as "
            f"Wav2Vec2ProcessorWithLM of transformers writes them; give such a folder, or a file"
        )
    others = [path / ALPHABET, inside / UNIGRAMS, inside / ATTRIBUTES]
    return [*models, *(each for each in others if each.is_file())]


def open_model(path: Path, labels: Labels) -> LanguageModel:
    """Read the words of a language model, and compare the alphabet of a checkpoint's folder with the labels.

    Raises:
        UserError: The file is no language model, or the alphabet is another one.
    """
    if not path.is_dir():
        words = _words(path)
        return LanguageModel(path, _vocabulary(path, words), words)
    _check_alphabet(path, labels)
    model = model_files(path)[0]
    attributes = _attributes(path)
    words, unigrams = _words(model), path / FOLDER / UNIGRAMS
    vocabulary = _vocabulary(model, words)
    return LanguageModel(
        model,
        vocabulary,
        read_lines("lm", unigrams) if unigrams.is_file() else words,
        # pyctcdecode multiplies natural logarithms by alpha.
        weight=attributes["alpha"] * math.log(10) if "alpha" in attributes else 2.0,
        word_score=attributes.get("beta", 0.0),
    )


def _words(path: Path) -> list[str] | None:
    """Return the words of an ARPA file, in its order; `None` for a binary.

    Source of the format: https://cmusphinx.github.io/wiki/arpaformat/
    """
    with open(path, "rb") as file:
        if file.read(len(_BINARY)) == _BINARY:
            return None
        file.seek(0)
        first = next((line.strip() for line in file if line.strip()), b"")
        if first != b"\\data\\":
            raise UserError(
                f"decoder.lm={path}: is neither an ARPA file, which begins with \\data\\, nor a binary of KenLM; "
                f"give the file that lmplz, build_binary or python -m pipeline.lm wrote, uncompressed"
            )
        for line in file:
            if line.strip() == b"\\1-grams:":
                break
        words = []
        for line in file:
            if line.startswith(b"\\"):
                break
            if len(parts := line.split()) >= 2:
                words.append(parts[1])
    try:
        return [word for word in map(bytes.decode, words) if word not in _MARKS]
    except UnicodeDecodeError:
        raise UserError(
            f"decoder.lm={path}: is not text in UTF-8; convert it with iconv, or give another one"
        ) from None


def _vocabulary(path: Path, words: list[str] | None) -> Container[str]:
    if words is not None:
        return frozenset(words)
    import kenlm

    try:
        vocabulary: Container[str] = kenlm.Model(str(path))
    except OSError as error:
        raise refuse_damaged(path, error) from None
    return vocabulary


def refuse_damaged(path: Path, error: Exception) -> UserError:
    """The error that says why KenLM cannot read a file, without the places in KenLM's own source."""
    reason = " ".join(str(error).rpartition("threw ")[2].split()).rstrip(".)")
    return UserError(f"decoder.lm={path}: KenLM cannot read it ({reason}); make the file again, or give another one")


def _check_alphabet(folder: Path, labels: Labels) -> None:
    """Compare the alphabet with the labels, one to one. pyctcdecode writes "" for the blank and " " between words."""
    content = _json(folder / ALPHABET, folder)
    theirs = content.get("labels")
    if content.get("is_bpe") or not isinstance(theirs, list):
        raise UserError(f"decoder.lm={folder}: {ALPHABET} has no list of letters; only models of letters can be used")
    ours = [*labels.names]
    ours[labels.blank] = ""
    ours = [" " if labels.delimiter and name == labels.delimiter else name for name in ours]
    if len(theirs) != len(ours):
        raise UserError(
            f"decoder.lm={folder}: {ALPHABET} has {len(theirs)} labels, the model {len(ours)}; "
            f"give the language model that was made for this model"
        )
    for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if their != our and index not in labels.silent:  # those of unknown letters and marks have various names
            raise UserError(
                f"decoder.lm={folder}: label {index} of {ALPHABET} is {their!r}, that of the model {our!r}; "
                f"give the language model that was made for this model"
            )


def _attributes(folder: Path) -> dict[str, float]:
    """Return `alpha` and `beta`, as far as the folder has them."""
    path = folder / FOLDER / ATTRIBUTES
    content = _json(path, folder) if path.is_file() else {}
    found = {key: content[key] for key in ("alpha", "beta") if content.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(
                f"decoder.lm={folder}: {key} in {ATTRIBUTES} is {value!r}, which is no finite number; mend it, or "
                "fetch the checkpoint again"
            )
    return found


def _json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"decoder.lm={folder}: {path.name} is no JSON ({error}); fetch the checkpoint again") from None
    return content if isinstance(content, dict) else {}
