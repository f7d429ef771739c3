"""A resume that would mix results is refused: everything that differs, the old value and the new, the two ways out."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import DATA, main, mtimes
from safetensors.torch import load_file, save_file
from small_models import digits_model

from pipeline.runtime.digests import sha256_file
from pipeline.stages import identity
from pipeline.stages.resume import corpus_differences
from pipeline.storage.run_record import RunRecord

WAYS_OUT = ("set them back to continue the run", "or start another run with run_dir=...")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three recordings with weights of one's own, made in the folder `work` beside this one."""
    folder = tmp_path_factory.mktemp("refusals")
    work = folder / "work"
    (work / "calls").mkdir(parents=True)
    for path in sorted((DATA / "fsdd").glob("*_0.wav"))[:3]:
        shutil.copy(path, work / "calls")
    save_file(digits_model().state_dict(), work / "w.safetensors")
    with contextlib.chdir(work):
        assert main(given()) == 0
    return work.rename(folder / "pristine")


@pytest.fixture
def made(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run in `out`, to be changed; the working directory is the folder that it is in."""
    work = pristine.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    monkeypatch.chdir(work)
    return work / "out"


def given(*changed: str) -> list[str]:
    """The command that made the run, with what is typed otherwise."""
    typed = dict(
        part.split("=", 1)
        for part in (
            "dataset=folder",
            "dataset.root=calls",
            "model=checkpoint",
            "model.checkpoint=w.safetensors",
            "model.architecture=digits",
            "outputs=[transcripts]",
            "run_dir=out",
            *changed,
        )
    )
    return [f"{key}={value}" for key, value in typed.items()]


def refusal(made: Path, capsys: pytest.CaptureFixture[str], *changed: str) -> str:
    """What is said of a run that is refused; nothing that was committed is touched by it."""
    before = mtimes(made), (made / "run.json").read_bytes() if (made / "run.json").exists() else None
    capsys.readouterr()
    assert main(given(*changed)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: run_dir=out: ")
    assert "\n" not in said
    for way in WAYS_OUT:
        assert way in said
    assert before == (mtimes(made), (made / "run.json").read_bytes() if (made / "run.json").exists() else None)
    return said


def damage(made: Path) -> None:
    """Let the committed shard be one that has to be done again."""
    with open(made / "failures" / "shard-00000.parquet", "ab") as file:
        file.write(b"x")


SETTINGS = [
    ("chunk.seconds=30", "chunk.seconds: 60.0 before, 30.0 now"),
    ("chunk.context_seconds=2", "chunk.context_seconds: 4.0 before, 2.0 now"),
    ("channels=first", "channels: mix before, first now"),
    ("channels=each", "channels: mix before, each now"),
    ("shard.hours=0.5", "shard.hours: 1.0 before, 0.5 now"),
]


@pytest.mark.parametrize(("changed", "difference"), SETTINGS, ids=[changed for changed, _ in SETTINGS])
def test_a_changed_setting_is_refused_with_the_old_value_and_the_new(
    made: Path, changed: str, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert difference in refusal(made, capsys, changed)


def test_an_option_of_the_dataset_is_refused_only_where_the_corpus_is_another(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given("dataset.extensions=[wav]")) == 0
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", made.parent / "calls")
    assert main(given("dataset.extensions=[wav]", "extend=off")) == 0  # the manifest is used as it stands
    said = refusal(made, capsys, "dataset.extensions=[wav,flac]")
    assert "dataset.extensions: [wav] before, [wav,flac] now; utterances: 1 added (7_theo_1.wav)" in said


def test_every_difference_is_listed_not_the_first_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made.parent / "calls").rename(made.parent / "moved")
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", made.parent / "moved")
    state = load_file("w.safetensors")
    state["aux.bias"] += 1
    save_file(state, "w.safetensors")
    said = refusal(made, capsys, "chunk.seconds=30", "channels=first", "dataset.root=moved")
    for part in (
        f"dataset.root: {made.parent / 'calls'} before, {made.parent / 'moved'} now",
        "utterances: 1 added (7_theo_1.wav)",
        "chunk.seconds: 60.0 before, 30.0 now",
        "channels: mix before, first now",
        "weights_sha256: ",
    ):
        assert part in said


def test_a_layout_is_refused_with_its_old_value_even_where_it_is_the_default(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given("outputs=[emissions]", "run_dir=arrays")) == 0
    capsys.readouterr()
    assert main(given("outputs=[emissions]", "run_dir=arrays", "emissions.layout=binary")) == 2
    assert "made with other settings (emissions.layout: list before, binary now); set" in capsys.readouterr().err


def test_changed_weights_are_refused_with_both_sums_and_where_they_lie(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = sha256_file(Path("w.safetensors"))
    state = load_file("w.safetensors")
    state["aux.bias"] += 1
    save_file(state, "other.safetensors")
    new = sha256_file(Path("other.safetensors"))
    there, here = made.parent / "w.safetensors", made.parent / "other.safetensors"
    said = refusal(made, capsys, "model.checkpoint=other.safetensors")
    assert f"weights_sha256: {old} ({there}) before, {new} ({here}) now" in said
    shutil.copy("other.safetensors", "w.safetensors")  # the same place, other bytes
    assert f"weights_sha256: {old} ({there}) before, {new} ({there}) now" in refusal(made, capsys)


def test_another_model_is_refused_with_both_names(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = [part for part in given("model=digits") if not part.startswith("model.")]
    capsys.readouterr()
    assert main(changed) == 2
    said = capsys.readouterr().err
    assert "model: checkpoint before, digits now" in said
    assert "model.architecture: digits before, not set now" in said
    assert all(way in said for way in WAYS_OUT)


@pytest.mark.parametrize("package", ["torch", "torchaudio"])
def test_another_release_that_may_change_results_is_refused(
    made: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = identity.version
    monkeypatch.setattr(identity, "version", lambda name: "9.8.7" if name == package else real(name))
    minor = ".".join(real(package).split(".")[:2])
    said = refusal(made, capsys)
    assert f"({package}: {minor} before, 9.8 now)" in said
    patch = f"{minor}.99"
    monkeypatch.setattr(identity, "version", lambda name: patch if name == package else real(name))
    assert main(given()) == 0  # a patch release does not


def changed_identity(made: Path, **changes: Any) -> None:
    """As if the run had been made with these settings."""
    record = RunRecord.decode((made / "run.json").read_bytes())
    (made / "run.json").write_bytes(replace(record, identity=replace(record.identity, **changes)).encode())


def test_a_run_json_that_was_edited_is_refused_with_the_way_out(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (made / "run.json").read_text()
    (made / "run.json").write_text(text.replace('"fp32"', '"bf16"'))
    capsys.readouterr()
    assert main(given()) == 2
    assert "run.json: cannot be read (its checksum is not that of its content); remove it" in capsys.readouterr().err
    (made / "run.json").unlink()
    assert main(given()) == 0


def test_a_precision_found_when_the_model_is_loaded_is_refused_likewise(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(made)  # so that there is work, and the model is loaded
    changed_identity(made, precision="bf16")
    assert "(precision: bf16 before, fp32 now)" in refusal(made, capsys)


def test_a_moved_corpus_that_changed_is_refused_with_what_was_added_removed_and_changed(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (made.parent / "calls").rename(made.parent / "moved")
    first, second, _ = sorted(path.name for path in moved.iterdir())
    (moved / first).unlink()
    size = (moved / second).stat().st_size
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", moved / second)
    for number in range(5):
        shutil.copy(DATA / "fsdd" / "7_theo_1.wav", moved / f"new-{number}.wav")
    said = refusal(made, capsys, "dataset.root=moved")
    assert f"dataset.root: {made.parent / 'calls'} before, {moved} now" in said
    assert "5 added (new-0.wav, new-1.wav, new-2.wav, ...)" in said
    assert f"1 removed ({first})" in said
    assert f"1 changed ({second}: " in said
    now = (moved / second).stat().st_size
    assert f"file_size {size} before, {now} now" in said or "duration_s " in said


def test_a_manifest_taken_away_is_made_again_only_if_it_is_the_same(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = made / "manifest.parquet"
    manifest.unlink()
    assert main(given()) == 0
    old = json.loads(pq.read_schema(manifest).metadata[b"digest"])
    manifest.unlink()
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", made.parent / "calls")
    assert f"manifest: {old} before, " in refusal(made, capsys)
    assert not manifest.exists()  # the one that the results are of may still be put back


def test_an_edited_manifest_is_refused_where_there_is_work_left(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = made / "manifest.parquet"
    table = pq.read_table(manifest)
    damage(made)
    column = table.schema.get_field_index("reference")
    edited = table.set_column(column, table.schema.field(column), pa.array(["now known"] * len(table)))
    pq.write_table(edited.replace_schema_metadata(table.schema.metadata), manifest)
    said = refusal(made, capsys)
    assert "manifest: " in said
    assert "has been edited" in said


def test_a_lost_run_json_is_refused_where_the_results_are_of_another_run(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "run.json").unlink()
    assert "run.json: lost" in refusal(made, capsys, "chunk.seconds=30")
    assert main(given()) == 0


def test_either_way_out_leads_out(made: Path) -> None:
    assert main(given("chunk.seconds=30")) == 2
    assert main(given()) == 0
    assert main(given("chunk.seconds=30", "run_dir=another")) == 0


def test_very_many_differences_stay_readable(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed_identity(made, options={f"model.setting{number:02d}": list(range(1000)) for number in range(100)})
    said = refusal(made, capsys)
    assert "and 90 more" in said
    assert "model.setting00: [0,1,2,3" in said
    assert len(said) < 4000


def row(id_: str, **values: object) -> dict[str, object]:
    return {"id": id_, "path": f"/{id_}", "reference": None, "start_s": None, "shard": 0, **values}


CORPORA: list[tuple[list[dict[str, object]], list[dict[str, object]], str]] = [
    ([row("a")], [row("a"), row("b")], "utterances: 1 added (b)"),
    ([row("a"), row("b")], [row("a")], "utterances: 1 removed (b)"),
    ([row("a"), row("b")], [row("c"), row("b")], "utterances: 1 added (c), 1 removed (a)"),
    ([row("a", reference="x")], [row("a", reference="y")], "utterances: 1 changed (a: reference x before, y now)"),
    ([row("a")], [row("a", start_s=1.5)], "utterances: 1 changed (a: start_s not set before, 1.5 now)"),
    (
        [row(str(number)) for number in range(9)],
        [row(str(number), reference="y") for number in range(9)],
        "utterances: 9 changed (0: reference not set before, y now, 1: reference not set before, y now, "
        "2: reference not set before, y now, ...)",
    ),
    ([row("a"), row("b")], [row("b"), row("a")], "utterances: the same in another order, or in other shards"),
    ([row("a")], [row("a", path="/moved")], "utterances: the same in another order, or in other shards"),
    ([row("a", room="1")], [row("a", mic="1")], "utterances: columns mic, room in one alone"),
    ([row("a", room="1")], [row("a", room=2)], "utterances: 1 changed (a: room 1 before, 2 now)"),
]


@pytest.mark.parametrize(("before", "now", "said"), CORPORA, ids=[said[:40] for _, _, said in CORPORA])
def test_two_corpora_differ_by_utterances(
    before: list[dict[str, object]], now: list[dict[str, object]], said: str
) -> None:
    def table(rows: list[dict[str, object]]) -> pa.Table:
        types: dict[str, Callable[[], pa.DataType]] = {"start_s": pa.float64, "reference": pa.string}
        made = pa.Table.from_pylist(rows)
        for name, type_ in types.items():
            index = made.schema.get_field_index(name)
            made = made.set_column(index, name, made[name].cast(type_()))
        return made

    assert corpus_differences(table(before), table(now)) == said
