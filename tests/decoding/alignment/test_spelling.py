"""References are spelled with the labels of a model; what the labels cannot spell becomes one star."""

from __future__ import annotations

import pytest

from pipeline.decoding.alignment import numbers
from pipeline.decoding.alignment.spelling import Speller
from pipeline.records import Labels
from pipeline.runtime.errors import UserError

UPPER = Labels(("-", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'"), 0, "|")
LOWER = Labels(("a", "b", "ab", "ß", "<pad>", "<unk>", " "), 4, " ", frozenset({5}), lower_case=True)


def spelled(reference: str, labels: Labels = UPPER, language: str | None = "en") -> str:
    speller = Speller(labels, numbers.Numbers(language) if language else None)
    return speller.written(speller(reference))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("It\u2019s  \u201cLate\u201d, twenty-one \u2018Sirs\u2019!", "IT'S LATE TWENTYONE SIRS"),
        ("caf\u00e9 na\u00efve \ufb01n", "CAFE NAIVE FIN"),
        ("in Tokio \u6771\u4eac said", "IN TOKIO * SAID"),
        ("21 men, 1984, 105.", "TWENTYONE MEN NINETEENEIGHTYFOUR ONEHUNDREDANDFIVE"),
        ("21st $5 1,000 3.5 007 1980s", "*ST * * * * *S"),
        ("one \u2013 two", "ONE TWO"),
    ],
)
def test_what_is_spelled(reference: str, expected: str) -> None:
    assert spelled(reference) == expected


def test_without_a_language_numbers_become_the_star() -> None:
    assert spelled("21 men", language=None) == "* MEN"


def test_numbers_are_spelled_in_the_language() -> None:
    assert spelled("21", language="de") == "EINUNDZWANZIG"


def test_labels_of_several_letters_are_taken_first_and_silent_labels_never() -> None:
    speller = Speller(LOWER)
    (word,) = speller("ABBA\u00df")
    assert [speller.name(label) for label in word.labels] == ["ab", "b", "a", "\u00df"]
    assert spelled("<unk> pad", LOWER) == "* *a*"


def test_each_word_of_the_reference_is_there_once_as_it_was_written() -> None:
    words = Speller(UPPER)("\u201cYes\u201d \u2013 he   said")
    assert [word.word for word in words] == ["\u201cYes\u201d", "\u2013", "he", "said"]
    assert [bool(word.labels) for word in words] == [True, False, True, True]


def test_a_language_that_num2words_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"align\.numbers=xx: num2words has am, ar"):
        numbers.Numbers("xx")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "is_installed", lambda: False)
    with pytest.raises(UserError, match="needs the package num2words, which the extra align has"):
        numbers.Numbers("en")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("English digits", "en"),
        ("de", "de"),
        ("128 languages", None),
        ("de, fr", None),
        (None, None),
    ],
)
def test_the_language_of_a_model(name: str | None, code: str | None) -> None:
    assert numbers.code_of(name) == code
