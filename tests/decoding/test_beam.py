"""`decoder=beam` finds what torchaudio's `ctc_decoder` finds, and its words follow the rules of the greedy decoder."""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import pickle
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arpa import write_arpa

if sys.version_info >= (3, 13):
    pytest.skip("flashlight-text has no release for this Python", allow_module_level=True)

from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from pipeline import decoding
from pipeline.config.run_config import load
from pipeline.decoding import beam, greedy
from pipeline.decoding.beam_search import search
from pipeline.models.labels import ENGLISH_LABELS
from pipeline.records import BestPath, Labels, UtteranceEmission
from pipeline.records.transcripts import Transcripts
from pipeline.runtime.errors import UserError
from pipeline.storage import tables

LABELS = Labels(("-", "|", "A", "B", "C", "D"), 0, "|")
STRIDE_S = 0.02
WORDS = ["AB", "BA", "ABC", "CAD", "DAB", "D"]
BIGRAMS = [*pairwise(["<s>", "AB", "CAD", "D", "</s>"]), *pairwise(["<s>", "BA", "D", "DAB", "ABC", "</s>"])]


def emission(text: str, labels: Labels = LABELS, noise: float = 0.0, seed: int = 0) -> UtteranceEmission:
    """Logits of a text, three frames for each label and a blank after each, with noise."""
    path = [index for label in text for index in [labels.names.index(label)] * 3 + [labels.blank]]
    logits = 8 * np.eye(len(labels.names), dtype=np.float32)[path]
    return of_logits(logits + noise * np.random.default_rng(seed).normal(size=logits.shape).astype(np.float32))


def of_logits(logits: np.ndarray, start_s: float = 0.0) -> UtteranceEmission:
    logprobs = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    return UtteranceEmission(BestPath(logits.argmax(1), logprobs.max(1)), logits, start_s)


def noise(frames: int, seed: int, labels: Labels = LABELS) -> UtteranceEmission:
    logits = 2 * np.random.default_rng(seed).normal(size=(frames, len(labels.names)))
    return of_logits(logits.astype(np.float32), start_s=1.5)


def decoder(labels: Labels = LABELS, **options: Any) -> beam.Decoder:
    return beam.Decoder(beam.Options(**options), labels, STRIDE_S)


def text_of(one: beam.Decoder, heard: UtteranceEmission) -> str:
    (transcript,) = one([heard])
    return transcript.text


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return write_arpa(tmp_path / "words.arpa", WORDS, BIGRAMS)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_language_model_it_finds_the_most_probable_text_of_all(seed: int) -> None:
    labels = Labels(("-", "|", "A", "B"), 0, "|")
    heard = noise(6, seed, labels)
    logprobs = torch.log_softmax(torch.from_numpy(heard.logits), -1).double().numpy()
    summed: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=6):
        # The search begins in silence, so that a delimiter in the first frame goes on with that one.
        text = "".join(labels.names[label] for label, _ in itertools.groupby((1, *path)) if label)[1:]
        summed[text] = np.logaddexp(summed.get(text, -np.inf), logprobs[np.arange(6), path].sum())
    (found,) = decoder(labels, nbest=2, beam_size=1000)([heard])
    assert found.nbest is not None
    best = max(summed, key=summed.__getitem__)
    assert found.text == best.replace("|", " ").strip()
    assert found.nbest[0].score == pytest.approx(summed[best], abs=1e-3)


def test_where_the_emission_is_sure_it_reads_what_the_greedy_decoder_reads() -> None:
    heard = [emission(text, noise=1.0) for text in ("A", "AB|CAD", "D|D|BA")]
    heard = [replace(each, start_s=3.5) for each in heard]
    plain = list(greedy.Decoder(greedy.Options(), LABELS, STRIDE_S)(heard))
    found = list(decoder()(heard))
    assert [(each.text, each.ctc_text) for each in found] == [(each.text, each.ctc_text) for each in plain]
    for one, other in zip(found, plain, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-5)
        assert [replace(word, probability=0) for word in one.words] == [replace(w, probability=0) for w in other.words]
        assert [w.probability for w in one.words] == pytest.approx([w.probability for w in other.words], abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*has been deprecated:UserWarning")
@pytest.mark.parametrize("kind", ["labels", "letters", "lexicon", "words"])
def test_it_finds_what_ctc_decoder_of_torchaudio_finds(kind: str, tmp_path: Path, model: str) -> None:
    from torchaudio.models.decoder import ctc_decoder

    options: dict[str, Any] = {"nbest": 2}
    theirs: dict[str, Any] = {"lexicon": None, "lm": None, "log_add": True}
    if kind == "letters":
        letters = [*pairwise("A|BA|CA|D"), *pairwise("ADBC")]
        options["lm"] = write_arpa(tmp_path / "letters.arpa", [*"|ABCD"], letters)
        # Given a path, `ctc_decoder` without a lexicon numbers the letters in the order of a hash table, not as the
        # labels, and so scores others than those that it reads.
        theirs["lm"] = KenLM(options["lm"], Dictionary([*LABELS.names]))
    if kind in ("lexicon", "words"):
        theirs["lexicon"] = write(tmp_path / "lexicon", *(f"{word} {' '.join(word)} |" for word in WORDS))
        options["lexicon"] = write(tmp_path / "words", *WORDS)
        options["word_score"] = theirs["word_score"] = 0.25
    if kind == "words":
        theirs["lm"] = options["lm"] = model
    if theirs["lm"]:
        options["lm_weight"] = theirs["lm_weight"] = 1.5
    reference = ctc_decoder(tokens=[*LABELS.names], **theirs)
    ours = decoder(**options)
    for seed in range(8):
        heard = noise(40, seed)
        logprobs = torch.log_softmax(torch.from_numpy(heard.logits), -1)
        if theirs["lexicon"]:  # the frame in which the last word may end
            end = torch.full((1, 6), -1e9)
            end[0, :2] = 0
            logprobs = torch.cat([logprobs, end])
        best = reference(logprobs[None])[0][0]
        (found,) = ours([heard])
        assert found.nbest is not None
        assert found.nbest[0].text == found.text
        assert found.nbest[0].score == pytest.approx(best.score, abs=1e-3)
        assert found.text.split() == "".join(reference.idxs_to_tokens(best.tokens)).replace("|", " ").split()
        if theirs["lexicon"]:
            assert found.text.split() == best.words


def test_words_have_the_times_and_probabilities_of_the_path_that_was_chosen(model: str) -> None:
    heard = emission("AB|CAD")
    (found,) = decoder(lm=model)([replace(heard, start_s=2.0)])
    assert (found.text, found.ctc_text, found.num_frames) == ("AB CAD", "AB|CAD", 24)
    assert [(word.word, word.start_s, word.end_s) for word in found.words] == [
        ("AB", 2.0, pytest.approx(2.0 + 7 * STRIDE_S)),
        ("CAD", pytest.approx(2.0 + 12 * STRIDE_S), pytest.approx(2.0 + 23 * STRIDE_S)),
    ]
    assert found.avg_logprob == pytest.approx(float(heard.path.logprobs.mean()), abs=1e-5)


def test_a_language_model_prefers_what_its_texts_say(tmp_path: Path, model: str) -> None:
    unsure = np.zeros((4, 6), np.float32)
    unsure[0, [2, 3]] = 9, 9.3  # B rather than A
    unsure[1, [2, 3]] = 9.3, 9
    unsure[2:, 0] = 9
    heard = of_logits(unsure)
    assert text_of(decoder(), heard) == "BA"
    for preferred in ("AB", "BA"):
        lm = write_arpa(tmp_path / f"{preferred}.arpa", ["AB", "BA"], [*pairwise(("<s>", preferred, "</s>"))])
        assert text_of(decoder(lm=lm), heard) == preferred
    # Lower case in the language model and the lexicon fits labels in upper case.
    lower = write_arpa(tmp_path / "lower.arpa", ["ab", "ba"], [*pairwise(("<s>", "ab", "</s>"))])
    assert text_of(decoder(lm=lower), heard) == "AB"
    assert text_of(decoder(lm=lower, lexicon=write(tmp_path / "words", "AB", "BA")), heard) == "AB"


@pytest.mark.parametrize("kind", ["labels", "letters", "lexicon", "words"])
def test_a_hotword_adds_its_weight_and_changes_a_text(kind: str, tmp_path: Path, model: str) -> None:
    lists = {"lexicon": {"lexicon": write(tmp_path / "words", *WORDS)}, "words": {"lm": model}}
    # So many hypotheses that none of the paths of the best texts is dropped.
    letters = {"lm": write_arpa(tmp_path / "letters.arpa", [*"|ABCD"], [*pairwise("AB|CAD")])}
    common = {"labels": {}, "letters": letters, **lists}[kind] | {"nbest": 4, "beam_size": 400}
    heard = emission("AB|CAD|D", noise=0.5)
    (plain,) = decoder(**common)([heard])
    assert plain.text == "AB CAD D"
    nothing = write(tmp_path / "nothing", "DAB 0", "CAD 0")
    (same,) = decoder(**common, hotwords=nothing)([heard])
    assert plain.nbest is not None
    assert same.nbest is not None
    assert same.text == plain.text
    assert same.nbest[0].score == pytest.approx(plain.nbest[0].score, abs=1e-3)
    hot = write(tmp_path / "hot", "dab 2.5", "CAD")
    (boosted,) = decoder(**common, hotwords=hot, hotword_weight=3)([heard])
    assert boosted.nbest is not None
    before, after = ({each.text: each.score for each in found.nbest or ()} for found in (plain, boosted))
    shared = {*before} & {*after}
    assert plain.text in shared
    for text in shared:
        expected = 3 * text.split().count("CAD") + 2.5 * text.split().count("DAB")
        assert after[text] - before[text] == pytest.approx(expected, abs=0.01), text
    strong = write(tmp_path / "strong", "DAB 60")
    assert "DAB" in text_of(decoder(**common, hotwords=strong), heard)


def test_hotwords_are_words_of_the_lexicon_too(tmp_path: Path, model: str) -> None:
    heard = emission("AB|CC|D")
    assert "CC" not in text_of(decoder(lm=model), heard)
    assert text_of(decoder(lm=model, hotwords=write(tmp_path / "hot", "CC")), heard) == "AB CC D"


def test_hotwords_are_spelled_as_the_lexicon_says(tmp_path: Path) -> None:
    lexicon = write(tmp_path / "lexicon", "42 A B", "AB", "D")
    for weights, text in ((("42 3", "AB 1"), "42 D"), (("42 1", "AB 3"), "AB D")):
        heard = emission("AB|D")
        assert text_of(decoder(lexicon=lexicon, hotwords=write(tmp_path / text[:2], *weights)), heard) == text


def test_a_lexicon_may_say_how_its_words_are_spelled(tmp_path: Path) -> None:
    lexicon = write(tmp_path / "lexicon", "Abba A B |", "42\tC A D", "D d")
    one = decoder(lexicon=lexicon, nbest=2)
    (found,) = one([emission("AB|CAD|D")])
    assert (found.text, found.ctc_text) == ("Abba 42 D", "AB|CAD|D")
    assert [word.word for word in found.words] == ["Abba", "42", "D"]
    assert found.nbest is not None
    assert found.nbest[0].text == found.text
    lower = decoder(replace(LABELS, lower_case=True), lexicon=lexicon)
    assert text_of(lower, emission("AB|CAD|D")) == "abba 42 d"


def test_texts_that_are_kept_differ_and_the_best_is_first() -> None:
    heard = [noise(30, seed) for seed in range(3)]
    found = decoder(nbest=5)(heard)
    for each in found:
        assert each.nbest is not None
        assert each.nbest[0].text == each.text
        assert len({one.text for one in each.nbest}) == len(each.nbest) == 5
        assert [one.score for one in each.nbest] == sorted((one.score for one in each.nbest), reverse=True)
    assert list(Transcripts.of([*found])) == list(found)
    rows = tables.transcript_columns(found).to_pylist()
    assert rows[0]["nbest"][0]["text"] == rows[0]["text"]
    assert "nbest" not in tables.transcript_columns(decoder()(heard)).column_names


def test_silent_labels_are_no_part_of_a_text_and_labels_without_a_delimiter_are_words() -> None:
    silent = Labels(("<pad>", "|", "a", "b", "<unk>"), 0, "|", frozenset({4}), lower_case=True)
    path = [2, 4, 3, 1, 2]
    assert text_of(decoder(silent), of_logits(9 * np.eye(5, dtype=np.float32)[path])) == "ab a"
    words = Labels(("-", "one", "two", "|"), 0, "")
    assert (
        text_of(decoder(words, nbest=2), of_logits(9 * np.eye(4, dtype=np.float32)[[1, 0, 2, 2, 1]])) == "one two one"
    )


def test_a_long_utterance_is_searched_in_windows_that_end_between_words(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "AB|CAD|D|" * 5
    heard = emission(text, noise=1.0)
    whole = decoder(lm=model, nbest=3)([heard])
    monkeypatch.setattr(search, "WINDOW_FRAMES", 50)
    windows = decoder(lm=model, nbest=3)([heard])
    (one,), (other,) = whole, windows
    assert one.text == other.text == text.replace("|", " ").strip()
    assert one.words == other.words
    assert other.nbest is not None
    assert len({each.text for each in other.nbest}) == 3
    # Where no word ends, a window ends after its longest silence: not in the middle of the word after it.
    silence = 8 * np.eye(len(LABELS.names), dtype=np.float32)[[LABELS.blank] * 45]
    late = emission("CAD", noise=1.0).logits
    assert late is not None
    assert text_of(decoder(lm=model), of_logits(np.concatenate([silence, late]))) == "CAD"
    assert text_of(decoder(), emission("AB" * 20)) == "AB" * 20


def test_a_decoder_that_was_pickled_loads_its_files_again(model: str) -> None:
    one = decoder(lm=model, nbest=2)
    again = pickle.loads(pickle.dumps(one))
    heard = [noise(40, 3)]
    assert list(again(heard)) == list(one(heard))
    sent = pickle.dumps(one)
    Path(model).unlink()  # as on a machine that does not have the file
    with pytest.raises(UserError, match=r"decoder.lm=.*: No such file .* needs the file in this place"):
        pickle.loads(sent)


def test_forked_processes_use_the_decoder_that_was_made_before(model: str) -> None:
    one, heard = decoder(lm=model, nbest=2), [noise(40, 3)]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    children = [context.Process(target=lambda: theirs.send(list(one(heard)))) for _ in range(2)]
    for child in children:
        child.start()
    assert [ours.recv(), ours.recv()] == [list(one(heard))] * 2
    for child in children:
        child.join()


def test_the_language_model_is_loaded_once_until_its_file_changes(tmp_path: Path, model: str) -> None:
    first, second = decoder(lm=model), decoder(lm=model)
    assert first._search is second._search
    write_arpa(Path(model), [*WORDS, "DAD"], BIGRAMS)
    assert decoder(lm=model)._search is not first._search


def checkpoint(folder: Path, alphabet: list[str], **attributes: float) -> str:
    inside = folder / "language_model"
    inside.mkdir(parents=True)
    write_arpa(inside / "4gram.arpa", ["ab", "cad", "d"], [*pairwise(["<s>", "ab", "cad", "d", "</s>"])])
    (inside / "unigrams.txt").write_text("ab\ncad\nd\nümlaut\n")
    (inside / "attrs.json").write_text(json.dumps(attributes | {"score_boundary": True}))
    (folder / "alphabet.json").write_text(json.dumps({"labels": alphabet, "is_bpe": False}))
    return str(folder)


def test_the_language_model_of_a_checkpoint_is_used_with_its_own_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "own", ["", " ", *"ABCD"], alpha=0.5, beta=1.5)
    weighed = decoder(lm=folder, nbest=2)
    lm = str(tmp_path / "own" / "language_model" / "4gram.arpa")
    plain = decoder(lm=lm, nbest=2, lm_weight=0.5 * np.log(10), word_score=1.5)
    heard = noise(40, 1)
    assert list(weighed([heard])) == list(plain([heard]))
    assert [path.name for path in beam.Options(lm=folder).files()["lm"]] == [
        "4gram.arpa",
        "alphabet.json",
        "unigrams.txt",
        "attrs.json",
    ]


@pytest.mark.parametrize(
    ("alphabet", "said"),
    [
        (["", " ", *"ABDC"], "label 4 of alphabet.json is 'D', that of the model 'C'"),
        ([" ", "", *"ABCD"], "label 0 of alphabet.json is ' ', that of the model ''"),
        (["", " ", *"ABCDE"], "alphabet.json has 7 labels, the model 6"),
    ],
)
def test_an_alphabet_that_does_not_fit_the_labels_is_refused(alphabet: list[str], said: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "own", alphabet)
    with pytest.raises(UserError, match=f"decoder.lm={re.escape(folder)}: {said}"):
        decoder(lm=folder)


@pytest.mark.parametrize(("alpha", "said"), [("NaN", "is nan"), ('"x"', "is 'x'"), ("[1]", r"is \[1\]")])
def test_weights_of_a_checkpoint_that_are_no_numbers_are_refused(alpha: str, said: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "own", ["", " ", *"ABCD"])
    (tmp_path / "own" / "language_model" / "attrs.json").write_text(f'{{"alpha": {alpha}}}')
    with pytest.raises(UserError, match=f"alpha in attrs.json {said}, which is no finite number"):
        decoder(lm=folder)


BINARY = b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(40)
FILES: dict[str, bytes] = {
    "notes.txt": b"nine o'clock",
    "cut.arpa": b"\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<s>\t0\n-1\t</s>\n-1\tA\t0\n\n\\2-grams:\n",
    "other.arpa": b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\t0\n-1\t</s>\n-1\t\xc3\xbc\t0\n\n\\end\\\n",
    "latin.arpa": b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\t0\n-1\t</s>\n-1\t\xfc\t0\n\n\\end\\\n",
    "cut.bin": BINARY,
    "words": b"AB\nABX\n",
    "empty": b"\n",
    "latin": b"AB\n\xfc\n",
    "spelled": b"AB A X\n",
    "hot": b"AB strong\n",
}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lm": "none.arpa"}, "decoder.lm=none.arpa: no such file; give a file that exists"),
        ({"lm": "."}, "decoder.lm=.: a folder must have alphabet.json and one .arpa or .bin file in language_model/"),
        ({"lexicon": "."}, "decoder.lexicon=.: is no file; give a file that exists"),
        ({"lm": "latin.arpa"}, "decoder.lm=latin.arpa: is not text in UTF-8; convert it with iconv"),
        ({"lm": "notes.txt"}, "decoder.lm=notes.txt: is neither an ARPA file, which begins with"),
        ({"lm": "cut.arpa"}, "decoder.lm=cut.arpa: KenLM cannot read it (End"),
        ({"lm": "cut.bin"}, "decoder.lm=cut.bin: KenLM cannot read it ("),
        ({"lm": "other.arpa"}, "decoder.lm=other.arpa: the labels of the model can spell none of its words"),
        (
            {"lexicon": "words"},
            "decoder.lexicon=words: the labels of the model cannot spell 'ABX'; they are - | A B C D",
        ),
        ({"lexicon": "spelled"}, "decoder.lexicon=spelled: the labels of the model cannot spell 'AB A X'"),
        ({"lexicon": "empty"}, "decoder.lexicon=empty: has no words"),
        ({"lexicon": "latin"}, "decoder.lexicon=latin: is not text in UTF-8"),
        ({"hotwords": "words"}, "decoder.hotwords=words: the labels of the model cannot spell 'ABX'"),
        ({"hotwords": "hot"}, "decoder.hotwords=hot: 'AB strong' is neither a word nor a word and its weight"),
        ({"lm_weight": 1.0}, "decoder.lm_weight=1.0: needs decoder.lm=FILE"),
        ({"word_score": 1.0}, "decoder.word_score=1.0: needs decoder.lexicon=FILE"),
        ({"beam_size": 0}, "decoder.beam_size=0: must be a whole number from 1 to"),
        ({"nbest": 51}, "decoder.nbest=51: must be a whole number from 1 to decoder.beam_size=50"),
        ({"hotword_weight": np.inf}, "decoder.hotword_weight=inf: must be a finite number"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        decoder(**options)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_do_not_go_together_are_refused(tmp_path: Path, model: str) -> None:
    letters = write_arpa(tmp_path / "letters.arpa", [*"|ABCD"], [*pairwise("A|BA")])
    words = write(tmp_path / "words", *WORDS)
    others = write(tmp_path / "others", "AAA", "BBB")
    no_delimiter = replace(LABELS, names=("-", "one", "two", "six"), delimiter="")
    for labels, options, said in (
        (LABELS, {"lm": letters, "lexicon": words}, "is a model of letters, which needs no words"),
        (LABELS, {"lm": letters, "word_score": 1.0}, "needs a lexicon or a language model of words"),
        (LABELS, {"lm": model, "lexicon": others}, "knows none of its words"),
        (no_delimiter, {"lm": model}, "knows none of the labels of the model, each of which is a word"),
        (no_delimiter, {"lexicon": words}, "every label is a word of its own; leave decoder.lexicon out"),
        (no_delimiter, {"hotwords": words}, "every label is a word of its own; leave decoder.hotwords out"),
    ):
        with pytest.raises(UserError, match=said):
            decoder(labels, **options)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"decoder=beam: .* pip install 'overnight-speech\[beam\]'"):
        decoder()
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    with pytest.raises(UserError, match=r"decoder=beam: .* no release for Python 3\.13"):
        decoder()


@pytest.mark.usefixtures("elsewhere")
def test_the_content_of_files_identifies_a_run_and_not_their_place(tmp_path: Path) -> None:
    def options_of(name: str, *words: str) -> dict[str, Any]:
        typed = ["dataset=digits", "decoder=beam", f"decoder.lexicon={write(tmp_path / name, *words)}"]
        config = load(typed)
        assert config.decoder_files == {"decoder.lexicon": str(tmp_path / name)}
        return config.identity_options

    one = options_of("one", "ZERO", "ONE")
    assert re.fullmatch("[0-9a-f]{64}", one["decoder.lexicon"])
    assert options_of("moved", "ZERO", "ONE") == one
    assert options_of("one", "ZERO", "TWO") != one
    labels = Labels(ENGLISH_LABELS, 0, "|")
    with pytest.raises(UserError, match=r"decoder.lexicon=.*/one: was changed since the run began"):
        decoding.make("beam", one, {"decoder.lexicon": str(tmp_path / "one")}, labels, STRIDE_S)
