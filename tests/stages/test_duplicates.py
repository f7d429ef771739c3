"""Recordings with the same samples: their digests, what `same_as` says after kills, in other orders, after growth."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from running import SHIPPED, assert_same_tables, main, mtimes, read, run

from pipeline.duplicates import __main__ as duplicates
from pipeline.inference.planning import Chunking
from pipeline.results import open_run
from pipeline.stages import identity
from pipeline.stages.score import renew_transcripts
from pipeline.status import read_status
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify

SOURCES = sorted((SHIPPED / "digits").glob("*-[12]digits-*.flac"))
ONE_EACH = "shard.hours=0.00001"
"""Each recording is a shard of its own."""


class Corpus:
    """A folder of recordings, of which some are copies of others, and a run over it."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.root, self.out = folder / "calls", folder / "out"
        self.root.mkdir(parents=True)

    def put(self, name: str, source: int, subtype: str = "PCM_16") -> Path:
        """Write the samples of one of the sources into a file, in the format that its name says."""
        samples, rate = soundfile.read(SOURCES[source], dtype="int16")
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(self.root / name, samples, rate, subtype=subtype)
        return self.root / name

    def given(self, *changed: str) -> list[str]:
        return [
            *("dataset=folder", f"dataset.root={self.root}", "model=digits", "device=cpu", ONE_EACH),
            *("outputs=[transcripts]", "stages=[manifest,infer,score]", f"run_dir={self.out}", *changed),
        ]

    def same_as(self) -> dict[str, str]:
        """The first utterance with the same audio, by id, for those that have one."""
        rows = pq.read_table(self.out / "transcripts").to_pylist()
        return {row["id"]: row["same_as"] for row in rows if row["same_as"] is not None}

    def recorded(self) -> object:
        return json.loads((self.out / "run.json").read_text()).get("duplicates")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test finds a new corpus: tables have the paths of the recordings."""
    return tmp_path_factory.mktemp("duplicates") / "corpus"


@pytest.fixture
def corpus(place: Path) -> Corpus:
    made = Corpus(place)
    for name, source in (("b.wav", 0), ("c.flac", 0), ("d.wav", 1), ("e.wav", 2), ("f/g.wav", 1), ("f/h.wav", 0)):
        made.put(name, source)
    return made


def test_the_same_samples_have_one_digest_in_any_format_segment_and_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    samples, rate = soundfile.read(SOURCES[0], dtype="int16")
    other, _ = soundfile.read(SOURCES[1], dtype="int16")
    for name, written, subtype in (
        ("mono.wav", samples, "PCM_16"), ("mono.flac", samples, "PCM_16"), ("deep.flac", samples, "PCM_24"),
        ("stereo.wav", np.stack([other[:3000], samples[:3000]], axis=1), "PCM_16"),
        ("longer.wav", np.concatenate([np.zeros(rate, np.int16), samples, other]), "PCM_16"),
        ("float.wav", samples.astype(np.float32) / 32768, "FLOAT"),
    ):  # fmt: skip
        soundfile.write(name, written, rate, subtype=subtype)
    soundfile.write("faster.wav", samples, 2 * rate)
    soundfile.write("shorter.wav", samples[:3000], rate)
    ends_s = 1 + len(samples) / rate
    rows = [
        "mono.wav,mono,,,", "mono.flac,flac,,,", "deep.flac,deep,,,", "float.wav,float,,,", "mono.wav,twice,,,",
        f"longer.wav,segment,1,{ends_s},", "longer.wav,longer,,,", "faster.wav,faster,,,", "stereo.wav,mix,,,",
        "shorter.wav,shorter,,,", "stereo.wav,right,,,2", "stereo.wav,left,,,1",
    ]  # fmt: skip
    Path("list.csv").write_text("\n".join(["path,id,start,end,channel", *rows]))
    given = ["dataset=manifest", "dataset.path=list.csv", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    assert main(given) == 0
    assert "6 utterances have the same audio as an earlier one; python -m pipeline.duplicates out lists them" in (
        capsys.readouterr().out
    )
    frame = open_run("out").transcripts.set_index("id")
    assert frame["same_as"].dropna().to_dict() == {
        "flac": "mono", "deep": "mono", "float": "mono", "twice": "mono", "segment": "mono", "right": "shorter",
    }  # fmt: skip
    assert frame["audio_digest"].str.fullmatch("[0-9a-f]{32}").all()
    assert frame["audio_digest"].nunique() == 6
    assert verify.main(["out"]) == 0


def test_the_digest_of_a_long_recording_does_not_depend_on_who_loads_its_windows(tmp_path: Path) -> None:
    samples = np.concatenate([soundfile.read(source, dtype="int16")[0] for source in SOURCES])
    silence = np.zeros(8 * 16000 + 320, np.int16)
    corpus = tmp_path / "calls"
    corpus.mkdir()
    for name, written, rate in (
        ("a.wav", samples, 8000), ("b.flac", samples, 8000), ("c.wav", samples[:-1], 8000),
        ("quiet.wav", silence, 16000), ("quieter.wav", silence[:-320], 16000),
    ):  # fmt: skip
        soundfile.write(corpus / name, written, rate)
    chunks = [Chunking.of_seconds(3, 0.5, sample_rate=16000, stride=320, receptive_field=400).chunks(0, each)
              for each in (len(silence), len(silence) - 320)]  # fmt: skip
    assert [chunk.num_samples for chunk in chunks[0][:-1]] == [chunk.num_samples for chunk in chunks[1][:-1]]
    found = []
    for number, settings in enumerate((["loader.workers=0"], ["loader.workers=2", "batch.max_seconds=7"])):
        out = tmp_path / f"out{number}"
        given = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "chunk.seconds=3", *settings]
        assert main([*given, "chunk.context_seconds=0.5", "outputs=[transcripts]", f"run_dir={out}"]) == 0
        found.append(read(out, "transcripts").select(["id", "audio_digest", "same_as"]))
    assert found[0].equals(found[1])
    assert found[0]["same_as"].to_pylist() == [None, "a.wav", None, None, None]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it makes a run over the corpus as it is at first."""
    return tmp_path_factory.mktemp("undisturbed") / "out"


@pytest.mark.parametrize("point", ["settle", "renewal", "renewal-decided@2", "committed@8", "settled", "file@10"])
def test_killed_while_same_as_is_settled_the_next_run_completes_it(
    corpus: Corpus, undisturbed: Path, tmp_path: Path, point: str
) -> None:
    if not undisturbed.exists():
        assert main(corpus.given(f"run_dir={undisturbed}")) == 0
    killed = run(*corpus.given(), cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert corpus.recorded() is None
    assert read_status(corpus.out).standing.complete
    assert verify.main([str(corpus.out)]) == 0
    assert main(corpus.given("extend=off")) == 0
    assert_same_tables(corpus.out, undisturbed)
    assert corpus.same_as() == {"c.flac": "b.wav", "f/g.wav": "d.wav", "f/h.wav": "b.wav"}
    assert corpus.recorded() == 3
    assert verify.main([str(corpus.out)]) == 0


def test_a_run_that_is_settled_writes_nothing_again(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(corpus.given()) == 0
    before = mtimes(corpus.out) | {"run.json": (corpus.out / "run.json").stat().st_mtime_ns}
    capsys.readouterr()
    for extend in ("auto", "off"):
        assert main(corpus.given(f"extend={extend}")) == 0
        assert "complete already" in (said := capsys.readouterr().out)
        assert "3 utterances have the same audio as an earlier one" in said
    assert mtimes(corpus.out) | {"run.json": (corpus.out / "run.json").stat().st_mtime_ns} == before


def test_shards_in_any_size_and_order_give_the_same_answer(corpus: Corpus, tmp_path: Path) -> None:
    killed = run(*corpus.given(), cwd=tmp_path, PIPELINE_FAILPOINT="committed:3")
    assert killed.returncode == -signal.SIGKILL
    (corpus.out / "commits" / "shard-00000.json").unlink(missing_ok=True)  # the first of a sound is done last
    assert main(corpus.given()) == 0
    found = corpus.same_as()
    shutil.rmtree(corpus.out)
    assert main(corpus.given("shard.hours=1")) == 0
    assert len(list((corpus.out / "transcripts").iterdir())) == 1
    assert corpus.same_as() == found == {"c.flac": "b.wav", "f/g.wav": "d.wav", "f/h.wav": "b.wav"}


def test_a_grown_corpus_names_the_old_utterance_and_a_replaced_one_is_the_first_no_more(corpus: Corpus) -> None:
    assert main(corpus.given()) == 0
    corpus.put("a.wav", 2)  # comes before all others in the folder, but the manifest has it behind them
    corpus.put("z.wav", 3)
    assert main(corpus.given()) == 0
    first = {"c.flac": "b.wav", "f/g.wav": "d.wav", "f/h.wav": "b.wav"}
    assert corpus.same_as() == first | {"a.wav": "e.wav"}
    corpus.put("b.wav", 3)
    assert main(corpus.given()) == 0
    assert corpus.same_as() == first | {"a.wav": "e.wav"}  # its result is still that of the old file
    assert main(corpus.given("redo_changed=true")) == 0
    assert corpus.same_as() == {"f/g.wav": "d.wav", "f/h.wav": "c.flac", "a.wav": "e.wav", "z.wav": "b.wav"}
    (corpus.root / "c.flac").unlink()
    assert main(corpus.given()) == 0
    assert corpus.same_as()["f/h.wav"] == "c.flac"  # a vanished recording keeps its result
    (corpus.root / "e.txt").write_text("four")
    assert main(corpus.given()) == 0  # writes transcripts again, without the model
    assert corpus.same_as()["a.wav"] == "e.wav"
    assert corpus.recorded() == 4
    assert verify.main([str(corpus.out)]) == 0


def test_failures_have_no_audio_and_a_retry_settles_again(corpus: Corpus) -> None:
    path = corpus.root / "b.wav"
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    assert main(corpus.given()) == 3
    assert corpus.same_as() == {"f/g.wav": "d.wav", "f/h.wav": "c.flac"}
    path.write_bytes(kept)
    assert main(corpus.given("redo_changed=true")) == 0
    assert corpus.same_as() == {"c.flac": "b.wav", "f/g.wav": "d.wav", "f/h.wav": "b.wav"}
    assert verify.main([str(corpus.out)]) == 0


def test_a_run_of_an_earlier_release_keeps_its_columns(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        begun = identity.Identity(1, "", "", "", "", (), "", 0.0, 0.0, "", "", decoder="greedy")
        patch.setattr("pipeline.stages.infer.RunDirectory.has_results", lambda directory: False, raising=True)
        describe = identity.describe
        patch.setattr(identity, "describe", lambda *given: describe(*given[:4], begun))
        assert main(corpus.given()) == 0
    assert "audio_digests" not in json.loads((corpus.out / "run.json").read_text())["identity"]
    before = mtimes(corpus.out)
    assert main(corpus.given()) == 0
    assert "complete already" in capsys.readouterr().out
    assert mtimes(corpus.out) == before
    corpus.put("z.wav", 0)
    (corpus.root / "b.txt").write_text("four")
    assert main(corpus.given("stages=[manifest,infer,score,report]")) == 0
    names = {name for path in (corpus.out / "transcripts").iterdir() for name in pq.read_schema(path).names}
    assert not {"audio_digest", "same_as"} & names
    assert verify.main([str(corpus.out)]) == 0
    assert len(open_run(corpus.out).transcripts) == read_status(corpus.out).standing.done == 7
    (corpus.out / "run.json").unlink()
    assert main(corpus.given()) == 0  # writes it again
    assert verify.main([str(corpus.out)]) == 0
    capsys.readouterr()
    assert duplicates.main([str(corpus.out)]) == 2
    assert "an earlier release began this run" in capsys.readouterr().err


def test_a_column_of_the_datasets_own_with_that_name_is_kept_under_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text(f"path,same_as\n{SOURCES[0]},mine\n{SOURCES[0]},yours\n")
    assert main(["dataset=manifest", "dataset.path=list.csv", "model=digits", "run_dir=out"]) == 0
    frame = open_run("out").transcripts
    assert frame["meta_same_as"].tolist() == ["mine", "yours"]
    assert frame["same_as"].dropna().tolist() == [frame["id"][0]]


def test_verify_finds_a_wrong_same_as_and_a_digest_that_is_none(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(corpus.given()) == 0
    directory = RunDirectory(corpus.out)

    def change(shard: int, column: str, value: str | None) -> None:
        table = directory.table("transcripts", shard).read()
        place = table.schema.get_field_index(column)
        values = pa.array([value], pa.string())
        renew_transcripts(directory, directory.commits()[shard].records[0], table.set_column(place, column, values))

    change(1, "same_as", "d.wav")
    capsys.readouterr()
    assert verify.main([str(corpus.out)]) == 1
    said = capsys.readouterr().out
    assert "transcripts/shard-00001.parquet: 'c.flac' has same_as 'd.wav', 'b.wav' is right (1 row wrong)" in said
    (corpus.out / "run.json").unlink()
    assert main(corpus.given()) == 0
    assert verify.main([str(corpus.out)]) == 0
    change(2, "audio_digest", "0123")
    capsys.readouterr()
    assert verify.main([str(corpus.out)]) == 1
    assert "a value of audio_digest is not 32 hexadecimal digits" in capsys.readouterr().out
    assert duplicates.main([str(corpus.out)]) == 2
    assert "a table cannot be read" in capsys.readouterr().err


def test_a_run_without_transcripts_has_no_digests(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(corpus.given("outputs=[features]")) == 0
    assert "audio_digests" not in json.loads((corpus.out / "run.json").read_text())["identity"]
    assert corpus.recorded() is None
    before = mtimes(corpus.out)
    assert main(corpus.given("outputs=[features]")) == 0
    assert mtimes(corpus.out) == before
    capsys.readouterr()
    assert duplicates.main([str(corpus.out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this run has no transcripts" in line
