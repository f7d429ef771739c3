"""The labels of a CTC checkpoint, from `vocab.json`, `tokenizer_config.json` and the files of special and added tokens.

They are read as `Wav2Vec2CTCTokenizer` of transformers reads them, with one difference: special tokens are left out of
texts after repeated labels are merged, so that an unknown letter between two equal letters keeps them apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.models.huggingface.folder import Folder

VOCABULARY, _TOKENIZER = "vocab.json", "tokenizer_config.json"
_CTC, _PHONEMES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
_TOKENIZERS = (_CTC, "Wav2Vec2Tokenizer", _PHONEMES)
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""The tokens that have a meaning, and their defaults. Those without an index get the next ones, in this order."""
_UNNAMED = ("additional_special_tokens", "extra_special_tokens")
_DELIMITER = "word_delimiter_token"
_SHOWN = 8


class Vocabulary(NamedTuple):
    """The labels of a CTC head; see `ModelFacts`.

    Attributes:
        labels: The labels in the order of the logits.
        blank: The index of the blank.
        delimiter: The label between two words; the empty string where every label is a word.
        silent: Indices of the labels that are no part of a text.
        lower_case: Whether texts are in lower case, whatever the labels are.
    """

    labels: tuple[str, ...]
    blank: int
    delimiter: str
    silent: frozenset[int]
    lower_case: bool


def read_vocabulary(folder: Folder, num_labels: int | None, language: str | None) -> Vocabulary:
    """Read the labels.

    Args:
        folder: The checkpoint.
        num_labels: Number of logits; `None` for as many as the vocabulary of the language has.
        language: The language, for a checkpoint with a vocabulary for each of several.

    Raises:
        UserError: A file is missing or damaged; the language is missing or is not there; the vocabulary does not name
            each logit, or has no blank among them.
    """
    ids = _ids(folder, language)
    settings = _settings(folder)
    kind = settings.get("tokenizer_class") or _CTC
    if kind not in _TOKENIZERS:
        raise folder.refusal(f"tokenizer_class in {_TOKENIZER} says {kind!r}; {_CTC} and {_PHONEMES} are supported")
    tokens = {index: token for token, index in _added(folder, settings).items()} | {
        index: token for token, index in ids.items()
    }
    for token in (_content(settings[key]) for key in _NAMED):
        if token is not None and token not in tokens.values():
            tokens[max(tokens) + 1] = token
    size = len(ids) if num_labels is None else num_labels
    labels = _named_logits(folder, tokens, ids, size)
    pad = _content(settings["pad_token"])
    if pad not in labels:
        raise folder.refusal(
            f"pad_token {pad!r} is none of its {size} labels, so the blank of CTC is not known; "
            f"name it in {_TOKENIZER} and {VOCABULARY}"
        )
    delimiter = _content(settings.get(_DELIMITER, None if kind == _PHONEMES else "|"))
    special = _special(settings)
    if kind == _PHONEMES:  # its texts are phonemes with a blank between any two
        special, delimiter = special | {delimiter}, ""
    elif delimiter not in labels:
        delimiter = " " if " " in labels else ""
    if settings.get("replace_word_delimiter_char", " ") != " ":
        raise folder.refusal(
            f"replace_word_delimiter_char in {_TOKENIZER} says {settings['replace_word_delimiter_char']!r}; "
            f"only a space between words is supported; set it to ' '"
        )
    silent = {index for index, label in enumerate(labels) if label in special and label not in (pad, delimiter)}
    return Vocabulary(labels, labels.index(pad), delimiter, frozenset(silent), bool(settings.get("do_lower_case")))


def languages(folder: Folder) -> list[str]:
    """The languages that a checkpoint has a vocabulary for, sorted; none where it has one vocabulary."""
    content = folder.find(VOCABULARY) or {}
    return sorted(content) if content and all(isinstance(each, dict) for each in content.values()) else []


def _ids(folder: Folder, language: str | None) -> Mapping[str, int]:
    """Token to index, out of `vocab.json`."""
    content = folder.find(VOCABULARY)
    if content is None:
        raise folder.refusal(
            f"has no {VOCABULARY}, so its labels are not known; save the processor beside the model with "
            f"processor.save_pretrained(DIR), or ask for outputs=[features] of an encoder without labels"
        )
    names = languages(folder)
    if names:
        content = content[_language(folder, names, language)]
    elif language is not None:
        raise folder.refusal(
            f"model.language={language}: it has one vocabulary and no languages; leave model.language out"
        )
    if not content or not all(_is_index(index) for index in content.values()):
        raise folder.refusal(f"{VOCABULARY} does not say the index of each label; fetch or save it again")
    if len(set(content.values())) != len(content):
        raise folder.refusal(f"{VOCABULARY} gives two labels the same index; fetch or save it again")
    return content


def _language(folder: Folder, names: Sequence[str], language: str | None) -> str:
    """The language, which must be one of those that there are."""
    if language is not None and language in names:
        return language
    there = f"{len(names)} languages" if len(names) > 1 else "one language"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    if language is None:
        raise folder.refusal(f"it has {there} ({shown}); add model.language=NAME")
    begins = [name for name in names if name.startswith(language.lower()[:2])]
    near = difflib.get_close_matches(language.lower(), names, n=_SHOWN, cutoff=0.5)
    near = [*dict.fromkeys([*near, *begins])][:_SHOWN]
    hint = f"the nearest are {', '.join(near)}" if near else f"there are {shown}"
    raise folder.refusal(f"model.language={language}: not among its {there}; {hint}")


def _settings(folder: Folder) -> dict[str, Any]:
    """What the tokenizer is made with, as transformers combines the files."""
    settings: dict[str, Any] = {**_NAMED, **(folder.find(_TOKENIZER) or {})}
    if "added_tokens_decoder" not in settings:
        settings |= folder.find("special_tokens_map.json") or {}
    return settings


def _added(folder: Folder, settings: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that were added to a vocabulary, with their indices."""
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        contents = {int(index): _content(token) for index, token in decoder.items() if str(index).isdecimal()}
        return {content: index for index, content in contents.items() if content is not None}
    found = folder.find("added_tokens.json") or {}
    return {token: index for token, index in found.items() if _is_index(index)}


def _named_logits(folder: Folder, tokens: Mapping[int, str], ids: Mapping[str, int], size: int) -> tuple[str, ...]:
    """The labels of the logits. Tokens that were added may lie beyond the logits, those of `vocab.json` may not."""
    largest = max(ids.values()) + 1
    if largest > size:
        raise folder.refusal(
            f"{VOCABULARY} names {largest} labels, and the layer that gives the logits has {size} (vocab_size in "
            f"config.json); put the processor there that the model was trained with"
        )
    unnamed = [index for index in range(size) if index not in tokens]
    if unnamed:
        raise folder.refusal(
            f"{VOCABULARY} names {size - len(unnamed)} of the {size} logits (vocab_size in config.json), not number "
            f"{unnamed[0]}; put the processor there that the model was trained with"
        )
    return tuple(tokens[index] for index in range(size))


def _special(settings: Mapping[str, Any]) -> set[str | None]:
    """The tokens that are no part of a text."""
    special = {_content(value) for key, value in settings.items() if key.endswith("_token") and key != _DELIMITER}
    for key in _UNNAMED:
        unnamed = settings.get(key)
        tokens = unnamed.values() if isinstance(unnamed, dict) else unnamed if isinstance(unnamed, list) else ()
        special |= {_content(token) for token in tokens}
    return special - {None}


def _content(token: Any) -> str | None:
    """The text of a token, which some files hold with its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
