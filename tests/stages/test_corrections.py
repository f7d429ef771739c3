"""`python -m pipeline.import`: corrected references change a run, survive later runs, and survive kills."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changing import Corpus

from pipeline.export import __main__ as export
from pipeline.results import open_run
from pipeline.runtime import failpoints
from pipeline.sample import __main__ as sample
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify

main = importlib.import_module("pipeline.import").main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A run of four recordings, the first of which has a reference."""
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    first, *_ = corpus.add(range(4))
    first.with_suffix(".txt").write_text("one")
    assert corpus.run() == 0
    return corpus


@pytest.fixture
def corpus(finished: Corpus, tmp_path: Path) -> Corpus:
    """The same recordings, and a copy of the run."""
    shutil.copytree(finished.out, tmp_path / "run")
    copy = Corpus(tmp_path / "other")
    copy.root, copy.out = finished.root, tmp_path / "run"
    return copy


def corrections(corpus: Corpus, **texts: str) -> str:
    """A table that corrects utterances, by their number in the manifest: `a0="nine"`."""
    ids = corpus.manifest()["id"].to_pylist()
    path = corpus.out.parent / "corrections.csv"
    rows = "".join(f"{ids[int(number[1:])]},{text}\n" for number, text in texts.items())
    path.write_text(f"id,reference\n{rows}")
    return str(path)


def references(corpus: Corpus) -> list[str | None]:
    """The references of the manifest, which the transcripts have too."""
    by_id = {row["id"]: row["reference"] for row in corpus.rows("transcripts").values()}
    rows = corpus.manifest().select(["id", "reference"]).to_pylist()
    assert by_id == {row["id"]: row["reference"] for row in rows}
    return [row["reference"] for row in rows]


def test_corrections_change_references_and_scores_and_stay_after_the_next_run(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = open_run(corpus.out).transcripts["text"].tolist()
    assert main([str(corpus.out), corrections(corpus, a0="nine nine", a2=heard[2])]) == 0
    said = capsys.readouterr().out
    assert "2 references corrected; kept in" in said
    assert references(corpus) == ["nine nine", None, heard[2], None]
    scores = open_run(corpus.out).scores
    assert (scores.group[0], scores.reference_words[0]) == ("overall", 2 + len(heard[2].split()))
    assert verify.main([str(corpus.out)]) == 0
    state = corpus.files()
    monkeypatch.setattr("pipeline.stages.infer.infer", None)  # not called
    capsys.readouterr()
    assert corpus.run() == 0
    assert "complete already; 4 of 4 utterances" in capsys.readouterr().out
    assert corpus.files() == state
    assert main([str(corpus.out), corrections(corpus, a0="nine nine", a1="six")]) == 0
    assert "1 reference corrected, 1 as before" in capsys.readouterr().out
    assert pq.read_table(corpus.out / "references.parquet").num_rows == 3
    (corpus.out / "references.parquet").unlink()
    assert corpus.run() == 0
    assert references(corpus) == ["one", None, None, None]


def test_scores_of_decodings_are_made_anew_too(corpus: Corpus) -> None:
    """Also those of a decoding that was never scored, as after a kill that came before its scores."""
    assert corpus.run("stages=[decode]", "decode.name=other") == 0
    assert corpus.run("stages=[decode,score]") == 0
    assert open_run(corpus.out / "transcripts-greedy").scores.reference_words[0] == 1
    assert main([str(corpus.out), corrections(corpus, a1="nine nine")]) == 0
    decoded = open_run(corpus.out / "transcripts-greedy")
    assert decoded.scores.reference_words[0] == 3
    assert decoded.scores.equals(open_run(corpus.out).scores)
    assert decoded.transcripts.reference.tolist()[:2] == ["one", "nine nine"]
    assert open_run(corpus.out / "transcripts-other").scores.equals(decoded.scores)


def test_a_decoding_is_exported_and_sampled_like_a_run_and_its_references_are_those_of_the_run(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert corpus.run("stages=[decode]", "decode.name=other") == 0
    decoded = corpus.out / "transcripts-other"
    table = pq.read_table(decoded / "shard-00000.parquet")
    words = sum(map(len, open_run(decoded).transcripts.words))
    assert export.main([str(decoded), "--format", "ctm"]) == 0
    assert len((corpus.out.parent / "run-other.ctm").read_text().splitlines()) == words > len(table)
    assert sample.main([str(decoded)]) == 0
    assert len(pq.read_table(corpus.out.parent / "run-other-sample" / "sample.parquet")) == 4
    capsys.readouterr()
    assert export.main([str(corpus.out / "transcripts-none"), "--format", "ctm"]) == 2
    assert "the run has no decoding none (it has other)" in capsys.readouterr().err
    assert main([str(decoded), corrections(corpus, a1="nine")]) == 2
    assert f"is a decoding, and references belong to the whole run; give {corpus.out}" in capsys.readouterr().err


def test_a_new_manifest_and_a_corpus_that_grows_have_the_corrections(corpus: Corpus, tmp_path: Path) -> None:
    assert main([str(corpus.out), corrections(corpus, a1="six")]) == 0
    (corpus.out / "manifest.parquet").unlink()
    assert corpus.run() == 0
    assert references(corpus) == ["one", "six", None, None]
    corpus.root = Path(shutil.copytree(corpus.root, tmp_path / "calls"))
    corpus.add(range(4, 5), "tuesday")
    assert corpus.run() == 0
    assert references(corpus) == ["one", "six", None, None, None]
    assert verify.main([str(corpus.out)]) == 0


@pytest.mark.parametrize("point", ["references", "references-written", "described", "extended", "scores"])
def test_after_an_error_at_any_step_the_next_command_completes_the_import(
    point: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(corpus.out), corrections(corpus, a0="nine", a3="two")]
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}=EIO")
    assert main(given) == 1
    assert capsys.readouterr().err.endswith("not everything is imported; the same command continues\n")
    monkeypatch.delenv(failpoints.VARIABLE)
    verify.main([str(corpus.out)])
    noted = "2 corrected references not in the manifest yet" in capsys.readouterr().out
    assert noted == (point in ("references-written", "described"))
    if point == "references":
        assert main(given) == 0
    else:
        assert corpus.run() == 0
    assert references(corpus) == ["nine", None, None, "two"]
    assert open_run(corpus.out).scores.reference_words[0] == 2
    assert verify.main([str(corpus.out)]) == 0


def test_what_cannot_be_imported_is_refused_in_one_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    table = corrections(corpus, a0="nine")
    assert "no run there" in refused(str(tmp_path), table)
    (tmp_path / "other.csv").write_text("id,reference\nnobody,x\n")
    assert "no correction belongs to an utterance" in refused(str(corpus.out), str(tmp_path / "other.csv"))
    with RunDirectory(corpus.out).lock():
        assert "locked by" in refused(str(corpus.out), table)
    (corpus.out / "references.parquet").write_bytes(b"damaged")
    assert "remove it and import the corrections again" in refused(str(corpus.out), table)
    assert verify.main([str(corpus.out)]) == 1
    assert "references.parquet: cannot be read" in capsys.readouterr().out
    pq.write_table(pa.table({"id": ["a"]}), corpus.out / "references.parquet")
    assert "it has other columns" in refused(str(corpus.out), table)
    edited = corpus.manifest().set_column(9, "reference", pa.array(["x"] * 4))
    (corpus.out / "references.parquet").unlink()
    pq.write_table(edited, corpus.out / "manifest.parquet")
    assert "manifest.parquet has been edited" in refused(str(corpus.out), table)


@pytest.mark.parametrize("point", ["renewal-decided", "moved", "renamed", "committed"])
def test_a_table_that_is_half_renewed_is_not_called_damaged_and_the_next_command_finishes_it(
    point: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(corpus.out), corrections(corpus, a0="nine nine")]
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}=EIO")
    assert main(given) == 1
    monkeypatch.delenv(failpoints.VARIABLE)
    half = "note: shard 0: the renewal of a table was interrupted; the next run, or the next import, finishes it\n"
    for notes in (1, 0):
        capsys.readouterr()
        assert verify.main([str(corpus.out)]) == 0
        assert capsys.readouterr().out.count(half) == notes
        assert main(given) == 0


def test_a_correction_that_is_taken_back_after_a_kill_leaves_no_trace(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for takes_back in (
        lambda: main([str(corpus.out), corrections(corpus, a0="one")]),
        lambda: (corpus.out / "references.parquet").unlink() or corpus.run(),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.stages.replacing.manifests.write", stop)  # after the transcripts were written
            assert main([str(corpus.out), corrections(corpus, a0="nine nine")]) == 130
        assert takes_back() == 0
        assert references(corpus) == ["one", None, None, None]
        assert verify.main([str(corpus.out)]) == 0
