"""`dataset.read_headers=false`: the list says the durations, and no recording is opened for the manifest."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from lists import dataset
from running import DATA, listed, main, read, refused

from pipeline.audio import headers
from pipeline.datasets.formats.columnar import ColumnReader
from pipeline.export.__main__ import main as export
from pipeline.results import open_run
from pipeline.stages.build_manifest import build
from pipeline.storage.manifest import Manifest

FILES = [DATA / "fsdd" / name for name in ("7_theo_1.wav", "2_jackson_1.wav")]
SHIPPED = sorted((DATA.parents[1] / "pipeline" / "shipped" / "digits").glob("*-[36]digits-*.flac"))[:3]
NOT_READ = "dataset.read_headers=false"


def built(folder: Path, text: str, name: str = "list.csv") -> Manifest:
    return build(dataset(folder, text, name, read_headers=False), 1.0)


def test_no_file_is_opened_where_the_list_says_the_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    of = headers.Headers.of
    monkeypatch.setattr(headers.Headers, "of", lambda self, paths: (asked.extend(paths), of(self, paths))[1])
    table = built(tmp_path, "path,duration,text\n/no/a.wav,2.5,one\n/no/b.wav,40,two\n/no/c.wav,,three\n").table
    assert asked == ["/no/c.wav"]
    assert table["duration_s"].to_pylist() == [2.5, 40.0, None]
    assert table["file_size"].null_count == table["sample_rate"].null_count == 3


def test_a_segment_is_as_long_as_its_times_say(tmp_path: Path) -> None:
    text = "path,start,end,duration\n/no/a.wav,1.5,4,\n/no/a.wav,4,,2\n/no/a.wav,,,9\n"
    assert built(tmp_path, text).table["duration_s"].to_pylist() == [2.5, 2.0, 9.0]


def test_a_manifest_of_lhotse_says_the_durations(tmp_path: Path) -> None:
    line = (
        '{"id": "a", "sources": [{"type": "file", "channels": [0], "source": "/no/a.wav"}], "sampling_rate": 8000, '
        '"num_samples": 20000, "duration": 2.5}\n'
    )
    assert built(tmp_path, line, "recordings.jsonl").table["duration_s"].to_pylist() == [2.5]


def test_a_run_gives_what_one_that_reads_the_headers_gives(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": path.stem, "path": str(path), "duration": soundfile.info(path).duration, "text": "one"}
        for path in SHIPPED
    ]
    first, *_ = rows
    rows += [{"id": "part", "path": first["path"], "offset": 0.2, "duration": first["duration"] - 0.1, "text": "one"}]
    asked = [*listed(rows), "chunk.seconds=1.5", "chunk.context_seconds=0.3"]
    assert main(asked) == main([*asked, NOT_READ, "run_dir=unread"]) == 0
    with_headers, without = (read(Path(name), "transcripts") for name in ("out", "unread"))
    assert with_headers.slice(0, 3).equals(without.slice(0, 3))
    # The end of the segment is after that of its recording. Without headers it is cut only when the recording is read.
    parts = [table.slice(3).to_pylist()[0] for table in (with_headers, without)]
    assert parts[0]["num_frames"] == parts[1]["num_frames"]
    assert parts[0]["duration_s"] < parts[1]["duration_s"]
    assert "duration from 'duration'" in capsys.readouterr().out
    assert main([*asked, NOT_READ, "run_dir=unread"]) == 0
    assert "complete already" in capsys.readouterr().out
    assert len(open_run("unread").audio(SHIPPED[0].stem)[0])
    assert export(["unread", "--format", "lhotse", "--out", "lhotse"]) == 0


def test_a_recording_of_another_length_than_listed_fails(elsewhere: Path) -> None:
    rows = [{"id": path.stem, "path": str(path), "duration": 9.0, "text": "seven"} for path in FILES]
    rows[1]["duration"] = 0.4  # rounded
    assert main([*listed(rows), NOT_READ]) == 3
    (failure,) = read(Path("out"), "failures").to_pylist()
    assert (failure["id"], failure["error"]) == (FILES[0].stem, "changed")
    assert failure["message"].startswith("it lasts 0.3615 s, but 9 s in the list; correct the list")


def test_a_list_that_has_not_changed_is_not_read_again(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(files: list[Path]) -> None:
        rows = [{"id": file.stem, "path": str(file), "duration": soundfile.info(file).duration} for file in files]
        pq.write_table(pa.Table.from_pylist(rows), "list.parquet")

    read_batches: list[int] = []
    read = ColumnReader.read
    monkeypatch.setattr(ColumnReader, "read", lambda *given: (read_batches.append(1), read(*given))[1])
    asked = ["dataset=manifest", "dataset.path=list.parquet", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    write(FILES)
    assert main([*asked, NOT_READ]) == 0
    assert len(read_batches) == 1
    assert main([*asked, NOT_READ]) == main([*asked, NOT_READ, "extend=check"]) == 0
    assert len(read_batches) == 1
    write([*FILES, SHIPPED[0]])
    assert main([*asked, NOT_READ]) == main([*asked, NOT_READ]) == 0
    assert len(read_batches) == 2
    assert "the corpus has changed: 1 new" in capsys.readouterr().out
    assert len(open_run("out").transcripts) == 3


@pytest.mark.parametrize("setting", ["channels=each", "vad=silero"])
def test_settings_that_need_all_headers_are_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    stages = ["stages=[manifest,vad,infer]"] if setting.startswith("vad") else []
    said = refused([*listed([{"path": "a.wav"}]), NOT_READ, setting, *stages], capsys)
    assert f"{setting}: needs the headers of all recordings" in said
