"""`python -m pipeline.lm` makes the models that KenLM's `lmplz` makes, of the texts that people have."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.lm.__main__ import main
from pipeline.lm.kneser_ney import estimate


def drawn_sentences(count: int) -> list[str]:
    """Words of a skewed distribution, from a linear congruential generator: the same on every machine."""
    state, made = 7, []
    for _ in range(count):
        said: list[str] = []
        while not said or state >> 16 & 7:
            state = (1103515245 * state + 12345) % 2**31
            said.append(f"w{(state >> 11) ** 3 * 60 // 2**60}")
        made.append(" ".join(said))
    return made


def written(sentences: list[str], order: int) -> dict[str, tuple[float, float]]:
    """The n-grams of an ARPA file: log10 of probability and of back-off weight."""
    file = io.StringIO()
    estimate(sentences, order).write(file)
    rows = (line.split("\t") for line in file.getvalue().splitlines() if "\t" in line)
    return {text: (float(log10), float(*backoff or [0])) for log10, text, *backoff in rows}


LMPLZ = {
    "<unk>": (-2.941897, 0.0),
    "<s>": (-99, -0.6831002),
    "</s>": (-1.3552357, 0.0),
    "w22": (-2.157853, -0.2784602),
    "w0": (-1.3257687, -0.67986107),
    "w39 w8": (-1.4954832, -0.0709645),
    "w5 w48": (-1.4610431, -0.11001946),
    "w11 w50": (-1.8845073, -0.0709645),
    "w28 w27 w20": (-0.71896815, 0.0),
    "w0 w28 </s>": (-0.6307061, 0.0),
    "w0 w33 w21": (-1.3072165, 0.0),
}
"""What `lmplz -o 3 --discount_fallback` of KenLM 0.3.0 writes of 400 sentences. It writes 0 for <s>, which is no word.

The discounts of unigrams are those of the fallback here, those of longer n-grams are estimated."""


def test_it_writes_what_lmplz_writes() -> None:
    found = written(drawn_sentences(400), 3)
    assert len(found) == 63 + 1291 + 2631
    for text, values in LMPLZ.items():
        assert found[text] == pytest.approx(values, abs=2e-6), text


def test_the_formulas_are_those_of_the_paper() -> None:
    found = written(["a b"], 2)
    # Each unigram has one predecessor, and discounts fall back to 0.5: (1 - 0.5) / 3, and 1.5 / 3 for all four words.
    unigram = 0.5 / 3 + 0.5 / 4
    assert found["a"] == pytest.approx((math.log10(unigram), math.log10(0.5)), abs=1e-6)
    assert found["<unk>"][0] == pytest.approx(math.log10(0.5 / 4), abs=1e-6)
    assert found["<s> a"][0] == pytest.approx(math.log10(0.5 + 0.5 * unigram), abs=1e-6)


def test_discounts_are_estimated_where_no_gram_occurs_four_times() -> None:
    """As by lmplz, which needs only grams that occur once, twice and three times."""
    found = written(["a b", "a b", "a c d"], 2)
    # Once: a c, c d, d </s>; twice: a b, b </s>; three times: <s> a.
    ratio = 3 / (3 + 2 * 2)
    once, twice = 1 - 2 * ratio * 2 / 3, 2 - 3 * ratio * 1 / 2
    weight = (twice + once) / 3  # what is taken from the three words after a
    assert found["a"][1] == pytest.approx(math.log10(weight), abs=1e-6)
    assert found["a b"][0] == pytest.approx(math.log10((2 - twice) / 3 + weight * 10 ** found["b"][0]), abs=1e-6)
    assert found["<s> a"][0] == pytest.approx(found["a"][0], abs=1e-6)  # 3 is taken from 3


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the extra `beam` has no KenLM for this Python")
def test_kenlm_reads_the_file_and_probabilities_add_up_to_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import kenlm

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(drawn_sentences(60)))
    assert main([str(texts), "-o", str(tmp_path / "lm.arpa")]) == 0
    assert "lm.arpa: 60 words" in capfd.readouterr().out
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    assert model.order == 4
    words = [*{word for line in texts.read_text().split("\n") for word in line.split()}, "</s>", "<unk>"]
    for context in ("", "w0", "w0 w1", "w59 w0 w0", "w2 w0 w1 w0"):
        state = kenlm.State()
        model.BeginSentenceWrite(state)
        for word in context.split():
            after = kenlm.State()
            model.BaseScore(state, word, after)
            state = after
        assert sum(10 ** model.BaseScore(state, word, kenlm.State()) for word in words) == pytest.approx(1, abs=1e-5)


def unigrams(path: Path) -> set[str]:
    return {line.split("\t")[1] for line in path.read_text().splitlines() if "\t" in line and " " not in line} - {
        "<unk>",
        "<s>",
        "</s>",
    }


def test_texts_come_from_files_tables_and_runs_and_are_normalised(tmp_path: Path, digits_run: Path) -> None:
    (tmp_path / "notes.txt").write_text("\ufeffIt\u2019s \u201cLate\u201d, twenty-one!\n\n", encoding="utf-8")
    pd.DataFrame({"id": [1, 2], "sentence": ["Fourteen", None]}).to_csv(tmp_path / "list.csv")
    pd.DataFrame({"reference": ["Fifteen."]}).to_parquet(tmp_path / "list.parquet")
    given = [str(tmp_path / name) for name in ("notes.txt", "list.csv", "list.parquet")]
    out = tmp_path / "lm.arpa"
    assert main([*given, str(digits_run), "--order", "2", "-o", str(out)]) == 0
    digits = {*["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]}
    assert unigrams(out) == {"it's", "late", "twenty", "one", "fourteen", "fifteen"} | digits
    assert main([given[0], "--letters", "-o", str(out)]) == 0
    assert unigrams(out) == {*"it's|late|twenty|one"}
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["empty.txt"], 2, "empty.txt: no words; name files that have texts"),
        (["latin.txt"], 2, "latin.txt: is not text in UTF-8"),
        (["none.txt"], 1, "none.txt: No such file or directory; no language model written"),
        (["."], 2, "no run"),
        (["latin.parquet"], 2, "latin.parquet: is no table ("),
        (["other.csv"], 2, "other.csv: has none of the columns reference, text, transcript, sentence"),
        (["other.csv", "-o", "./other.csv"], 2, "--out=other.csv: is one of the texts, which would be lost"),
        (["other.txt", "-o", "device"], 1, "device: is there already, and is no file that could be replaced"),
        (["-o", ".", "other.txt"], 1, ".: is there already, and is no file that could be replaced; no language model"),
        (["empty.txt", "--order", "7"], 2, "--order=7: must be from 2 to 6, as KenLM reads no other"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("...\n")
    Path("latin.txt").write_bytes(b"\xfc\n")
    Path("latin.parquet").write_bytes(b"\xfc\n")
    Path("other.csv").write_text("id,said\n1,one\n")
    Path("other.txt").write_text("one\n")
    os.mkfifo("device")
    assert main(["-o", "lm.arpa", *arguments]) == code
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("lm.arpa").exists()
