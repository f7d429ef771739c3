"""Stored emissions are decoded again, without the model: stages=[decode,score,report]."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from changing import RECORDINGS, Corpus
from running import main, read

from pipeline import status
from pipeline.decoding import greedy
from pipeline.export import __main__ as export
from pipeline.report import __main__ as report
from pipeline.results import open_run
from pipeline.stages.postprocessing import processes
from pipeline.stages.postprocessing.decoding import Decoded, ShardDecoder
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.storage.run_directory import RunDirectory
from pipeline.tune import __main__ as tune
from pipeline.verify import __main__ as verify


@dataclass
class OtherOptions:
    size: int = 5


AGAIN = ("stages=[decode,score]", "threads=1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six shards. For reading only."""
    out = tmp_path_factory.mktemp("decode") / "run"
    assert main(["dataset=digits", f"run_dir={out}", "shard.hours=0.005", "outputs=[transcripts,emissions]"]) == 0
    return out


@pytest.fixture(scope="module")
def decoded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a decoding `greedy`. For reading only."""
    out = tmp_path_factory.mktemp("decoded") / "run"
    shutil.copytree(made, out)
    assert main(given(out, "stages=[decode,score,report]", "threads=2")) == 0
    return out


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of the run without a decoding."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def given(out: Path, *overrides: str) -> list[str]:
    return ["dataset=digits", f"run_dir={out}", "shard.hours=0.005", *overrides]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "transcripts-greedy").glob("*"))}


def test_the_same_decoder_gives_the_same_transcripts_and_the_first_ones_stay(made: Path, decoded: Path) -> None:
    first, again = read(decoded, "transcripts"), read(decoded, "transcripts-greedy")
    assert first.equals(read(made, "transcripts"))
    assert again.schema.equals(first.schema)
    rounded = ("avg_logprob", "words")  # NumPy computes the log-probabilities instead of torch
    assert again.drop_columns(rounded).equals(first.drop_columns(rounded))
    assert np.allclose(again["avg_logprob"], first["avg_logprob"], atol=1e-6)
    for mine, theirs in zip(again["words"].to_pylist(), first["words"].to_pylist(), strict=True):
        assert [{**word, "probability": 0} for word in mine] == [{**word, "probability": 0} for word in theirs]
        assert np.allclose([w["probability"] for w in mine], [w["probability"] for w in theirs], atol=1e-6)


def test_a_decoding_is_opened_like_a_run(decoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(decoded / "transcripts-greedy")
    assert len(run.transcripts) == 60
    assert run.scores.equals(open_run(decoded).scores)
    assert run.emission(run.transcripts.id[0]).shape[1] == len(run.alphabet)
    with pytest.raises(FileNotFoundError, match=r"transcripts-beam: the run has no decoding beam \(it has greedy\)"):
        open_run(decoded / "transcripts-beam")
    assert open_run(decoded).decodings == ["greedy"]
    page = (decoded / "report-greedy" / "index.html").read_text()
    assert "greedy, decoder=greedy" in page
    assert report.main([str(decoded / "transcripts-greedy")]) == 0
    assert f"report in {decoded / 'report-greedy' / 'index.html'}" in capsys.readouterr().out
    assert status.main([str(decoded)]) == 0
    assert "made     transcripts-greedy of 6 of 6 shards" in capsys.readouterr().out


def test_the_folder_of_a_decoding_is_taken_as_one_stands_in_it(
    decoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(decoded / "transcripts-greedy")
    assert len(open_run(".").transcripts) == 60
    assert status.main(["."]) == 0
    assert "done     60 of 60 utterances" in capsys.readouterr().out
    assert verify.main(["."]) == 0
    assert "6 shards sound" in capsys.readouterr().out
    assert RunDirectory.at(Path()).name == f"{decoded.name}-greedy"
    assert export.main([f"{decoded}/transcripts-greedy/", "--format", "ctm"]) == 0
    assert decoded.with_name(f"{decoded.name}-greedy.ctm").read_text().count("\n") == 186
    assert tune.main([f"{decoded}/transcripts-greedy/"]) == 2
    assert capsys.readouterr().err == (
        f"error: {decoded}/transcripts-greedy: is a decoding, and the command takes whole runs; give {decoded}\n"
    )


def test_the_number_of_processes_changes_nothing_and_what_is_done_is_not_done_again(
    own: Path, decoded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert main(given(own, *AGAIN)) == 0
    said = capsys.readouterr().out
    assert "decoder greedy: 6 of 6 shards to do" in said
    assert "WER 0.00 % (0 errors in 186 reference words)" in said
    assert f'pandas.read_parquet("{own / "transcripts-greedy"}")' in said
    assert contents(own) == contents(decoded)
    assert (own / "scores-greedy.parquet").read_bytes() == (decoded / "scores-greedy.parquet").read_bytes()
    monkeypatch.setattr(greedy.Decoder, "__call__", None)
    assert main(given(own, *AGAIN)) == 0
    assert "decoder greedy: complete already" in capsys.readouterr().out
    shutil.rmtree(own / "transcripts-greedy")  # the records alone do not count
    monkeypatch.undo()
    assert main(given(own, *AGAIN)) == 0
    assert contents(own) == contents(decoded)


def test_killed_at_a_step_readers_find_whole_tables_and_the_next_command_continues(own: Path, decoded: Path) -> None:
    whole = contents(decoded)
    for point in ("table", "sync", "staged", "moved", "renamed", "file-staged@3", "file-moved@3", "committed"):
        child = os.fork()
        if not child:
            os.environ["PIPELINE_FAILPOINT"] = point
            main(given(own, *AGAIN))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, point
        found = contents(own)
        assert {name: whole[name] for name in found} == found
    assert main(given(own, *AGAIN)) == 0
    assert contents(own) == whole
    assert [path.name for path in (own / ".staging").iterdir()] == ["lock"]


def test_a_process_that_dies_is_one_line_and_costs_only_what_it_had_begun(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = greedy.Decoder.__call__

    def die(self: greedy.Decoder, emissions: list[object]) -> object:
        if len(emissions) == 5:  # in one shard only
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, emissions)  # type: ignore[arg-type]

    sizes = [len(pq.read_table(path, columns=["id"])) for path in sorted((own / "emissions").iterdir())]
    assert sizes.count(5) == 1
    monkeypatch.setattr(greedy.Decoder, "__call__", die)
    assert main(given(own, "stages=[decode]", "threads=2")) == 1
    said = capsys.readouterr().err
    assert "error: a process died while it worked on one of the shards" in said
    assert said.count("\n") == 1
    monkeypatch.undo()
    assert main(given(own, "stages=[decode]", "threads=2")) == 0


def test_other_settings_need_another_name(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(given(own, *AGAIN, "decode.name=first")) == 0
    monkeypatch.setattr("pipeline.config.run_config.RunConfig.decoder_options", {"decoder.size": 5})
    monkeypatch.setattr(greedy, "Options", OtherOptions)
    assert main(given(own, *AGAIN, "decode.name=first")) == 2
    assert capsys.readouterr().err == (
        f"error: {own / 'transcripts-first'}: was made with other settings (decoder.size: not set before, 5 now); "
        "set them back, or choose another name with decode.name=...\n"
    )
    assert main(given(own, *AGAIN, "decode.name=second")) == 0
    assert RunDirectory(own).decodings() == ["first", "second"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages=[infer,decode]"], "stages=[infer,decode]: infer decodes already"),
        (["decode.name=-x"], "of a-z, 0-9, - and _, of which the first is a letter or a digit"),
        (["stages=[decode]", "executor.part=1/2"], "executor.part=1/2: the stage decode takes the whole run"),
        (
            ["stages=[decode]", "executor=slurm", "executor.tasks=2"],
            "executor=slurm: the stage decode takes the whole run on this machine",
        ),
    ],
)
def test_what_cannot_be_decoded_is_refused(
    overrides: list[str], said: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(made, *overrides)) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_emissions_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([*given(out), "outputs=[transcripts]", "stages=[manifest]"]) == 0
    assert main(given(out, *AGAIN)) == 2
    assert f"error: {out}: no emissions are stored" in capsys.readouterr().err


def test_a_shard_whose_emissions_have_changed_does_not_count_until_it_is_decoded_again(own: Path) -> None:
    assert main(given(own, *AGAIN)) == 0
    path = own / "commits-transcripts-greedy" / "shard-00002.json"
    record = RunDirectory(own).derived("transcripts-greedy").read_record(2)
    assert record is not None
    content = json.loads(path.read_text())
    content["sources"]["emissions"] = "0" * 64  # as if the shard had been computed again since
    del content["checksum"]
    path.write_text(json.dumps(content))
    lost = {*pq.read_table(own / "transcripts" / "shard-00002.parquet")["id"].to_pylist()}
    assert {*open_run(own / "transcripts-greedy").transcripts.id} == {*open_run(own).transcripts.id} - lost
    assert main(given(own, *AGAIN)) == 0
    assert len(open_run(own / "transcripts-greedy").transcripts) == 60


def test_a_grown_corpus_is_decoded_where_it_is_new_and_corrected_references_need_no_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Corpus(tmp_path)
    corpus.add(range(4))
    outputs = "outputs=[transcripts,emissions]"
    assert corpus.run(outputs) == 0
    assert corpus.run(*AGAIN) == 0
    corpus.add(range(4, 6))
    first = corpus.root / corpus.manifest()["id"][0].as_py()
    first.with_suffix(".txt").write_text("nine nine")
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.stages.shards.in_processes", None)
        assert corpus.run(outputs) == 0  # also writes the reference into the decoding
    run = open_run(corpus.out / "transcripts-greedy")
    assert len(run.transcripts) == 4
    assert run.transcripts.reference[0] == "nine nine"
    assert run.transcripts.word_errors[0] > 0
    assert run.scores.empty  # those of the earlier reference are gone
    capsys.readouterr()
    assert corpus.run(*AGAIN) == 0
    assert "decoder greedy: 1 of " in capsys.readouterr().out
    assert (
        open_run(corpus.out / "transcripts-greedy").scores.word_errors[0] == open_run(corpus.out).scores.word_errors[0]
    )


def test_what_was_made_of_the_emissions_of_a_replaced_recording_goes_with_them(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "outputs=[transcripts,emissions]")
    for path in corpus.add(range(5)):
        path.with_suffix(".txt").write_text("nine nine")
    assert corpus.run() == 0
    assert corpus.run("stages=[decode,align,score]", "threads=1") == 0
    first = corpus.manifest()["id"][0].as_py()
    shutil.copy(RECORDINGS[20], corpus.root / first)
    assert corpus.run("redo_changed=true") == 0
    kept = set(read(corpus.out, "transcripts-greedy")["id"].to_pylist())
    assert len(kept) == 2
    assert first not in kept
    assert {*read(corpus.out, "alignments")["id"].to_pylist()} == kept
    assert open_run(corpus.out / "transcripts-greedy").scores.empty  # those of the other recording are gone
    assert status.read_status(corpus.out).derived == {"alignments": 1, "transcripts-greedy": 1}
    assert corpus.run("stages=[decode,align,score]", "threads=1") == 0
    texts = [read(corpus.out, f"transcripts{name}")["text"].to_pylist() for name in ("", "-greedy")]
    assert texts[0] == texts[1]


def test_duplicates_that_the_end_of_the_run_finds_are_duplicates_in_decodings_too(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "outputs=[transcripts,emissions]")
    corpus.add(range(4))
    corpus.add([0], into="tuesday")
    assert corpus.run("executor.part=2/2") == 0  # the shard with the copy comes first
    assert corpus.run("stages=[decode]", "threads=1") == 0
    assert read(corpus.out, "transcripts-greedy")["same_as"].null_count == len(read(corpus.out, "transcripts-greedy"))
    assert corpus.run() == 0
    copies = dict(
        zip(*read(corpus.out, "transcripts-greedy").select(["id", "same_as"]).to_pydict().values(), strict=True)
    )
    whole = dict(zip(*read(corpus.out, "transcripts").select(["id", "same_as"]).to_pydict().values(), strict=True))
    assert copies.items() <= whole.items()
    assert [copy for copy in copies.values() if copy] == [corpus.manifest()["id"][0].as_py()]


def test_a_run_of_emissions_only_gets_its_transcripts_afterwards(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*given(out), "outputs=[emissions]", "emissions.dtype=float16", "emissions.layout=binary"]) == 0
    assert main(given(out, *AGAIN, "outputs=[emissions]")) == 0
    found, expected = read(out, "transcripts-greedy"), read(made, "transcripts")
    assert found["text"].equals(expected["text"])
    assert found["word_errors"].equals(expected["word_errors"])
    assert not {"audio_digest", "same_as"} & {*found.column_names}


def test_emissions_of_an_earlier_release_do_not_name_the_delimiter(own: Path, made: Path) -> None:
    for path in (own / "emissions").iterdir():
        table = pq.read_table(path)
        metadata = {k: v for k, v in table.schema.metadata.items() if k not in (b"delimiter", b"silent", b"lower_case")}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    directory = RunDirectory(made)
    was = describe_emissions(directory, directory.commits())
    directory = RunDirectory(own)
    assert describe_emissions(directory, RunDirectory(made).commits()) == was


def test_verify_checks_the_files_of_a_decoding(
    decoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(decoded, tmp_path / "run"))
    assert verify.main([str(own)]) == 0
    assert "not a file of this run" not in capsys.readouterr().out
    path = own / "transcripts-greedy" / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (own / "transcripts-greedy" / "shard-00009.parquet").write_bytes(b"")
    record = own / "commits-transcripts-greedy" / "shard-00003.json"
    record.write_text(record.read_text().replace('"shard": 3', '"shard": 4'))
    assert verify.main([str(own)]) == 1
    said = capsys.readouterr().out
    assert "transcripts-greedy/shard-00001.parquet does not have the bytes that were committed" in said
    assert "transcripts-greedy/shard-00009.parquet: has no commit record" in said
    assert "commits-transcripts-greedy/shard-00003.json: is no commit record, or has been edited" in said
    assert "note: transcripts-greedy: in 5 shards of 6" in said
    (own / "transcripts-greedy" / "shard-00009.parquet").unlink()
    (own / "commits-transcripts-greedy" / "shard-00001.json").unlink()
    assert main(given(own, *AGAIN)) == 0
    assert verify.main([str(own)]) == 0


def test_damaged_emissions_are_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own / "emissions" / "shard-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])
    assert main(given(own, "stages=[decode]", "threads=1")) == 2
    assert f"error: {path}: cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("default_signals")
def test_a_stop_says_how_many_shards_are_decoded(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = ShardDecoder.commit

    def stop_after_two(self: ShardDecoder, shard: int, decoded: Decoded) -> None:
        commit(self, shard, decoded)
        if len(self.table.records()) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ShardDecoder, "commit", stop_after_two)
    assert main(given(own, "stages=[decode]", "threads=1")) == 130
    kept = "what was committed stays (decoding: 2 of 6 shards), the same command continues"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGINT; {kept}"
    monkeypatch.undo()
    assert main(given(own, "stages=[decode]", "threads=1")) == 0
    assert "decoder greedy: 4 of 6 shards to do" in capsys.readouterr().out


def test_a_stop_ends_the_processes_and_keeps_what_was_committed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(shard: int) -> int:
        if shard:
            signal.pause()
        return os.getpid()

    found = processes.in_processes(work, [0, 1, 2], 2)
    shard, child = next(found)
    assert shard == 0
    found.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
