"""The waveform of an utterance, read again, is bit for bit the one that the loader gives the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from make_run import Spoken, make_run, run_record
from numpy.typing import NDArray
from running import environment

from pipeline.datasets import folder
from pipeline.datasets import manifest as listed
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.planning import Chunking, plan_run
from pipeline.results import Run, open_run
from pipeline.stages.build_manifest import build
from pipeline.storage import manifest as manifests
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

UNCUT = Chunking(max_samples=10**9, context=0, stride=320, receptive_field=400)
CUT = Chunking(max_samples=20_000, context=20, stride=320, receptive_field=400)
RECORDINGS = {"mono.wav": (16_000, 1), "stereo.flac": (16_000, 2), "phone.wav": (8_000, 1), "studio.wav": (44_100, 2)}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("calls"), np.random.default_rng(1)
    for name, (rate, channels) in RECORDINGS.items():
        soundfile.write(root / name, random.uniform(-0.5, 0.5, (3 * rate, channels)), rate)
    rows = [{"path": str(root / name), "start": 0.5, "end": 1.75} for name in RECORDINGS]
    rows += [{"path": str(root / "studio.wav"), "start": 1.2345, "end": 2.0, "channel": 2}]
    (root / "segments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def opened(calls: Path, out: Path, kind: str, channels: str) -> tuple[Manifest, Run]:
    """A run whose utterances are planned, of the shipped model, without any table but the manifest."""
    dataset = (
        folder.Dataset(folder.Options(root=str(calls)))
        if kind == "recordings"
        else listed.Dataset(listed.Options(path=str(calls / "segments.jsonl")))
    )
    manifest, directory = build(dataset, 1.0, channels=channels), RunDirectory(out)
    manifests.write(directory, manifest, {"dataset": kind})
    directory.write("run.json", run_record(model="digits", channels=channels).encode())
    return manifest, open_run(out)


def loaded(manifest: Manifest, channels: str, chunking: Chunking) -> dict[str, list[tuple[int, NDArray[np.float32]]]]:
    """What the model is given: the first sample and the waveform of each chunk, by id."""
    shards = range(manifest.num_shards)
    plan = plan_run(shards, manifest.shard_of_row, manifest.num_samples_at(16_000), 10**6, chunking)
    found: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    for batch in Loader(Recordings(manifest, 16_000, 400, channels), workers=0, timeout_s=60).batches(plan):
        assert not batch.rejected
        for chunk, waveform, length in zip(batch.chunks, batch.waveforms, batch.lengths, strict=True):
            id_ = manifest.utterance(chunk.row).id
            found.setdefault(id_, []).append((chunk.start, waveform[:length].numpy()))
    return found


@pytest.mark.parametrize(
    ("kind", "channels", "utterances"),
    [(kind, channels, number) for kind, number in (("recordings", 4), ("segments", 5)) for channels in ("mix", "first")]
    + [("recordings", "each", 6), ("segments", "each", 7)],
)
def test_a_waveform_is_what_the_model_is_given(
    calls: Path, tmp_path: Path, kind: str, channels: str, utterances: int
) -> None:
    manifest, run = opened(calls, tmp_path / "run", kind, channels)
    expected = loaded(manifest, channels, UNCUT)
    assert len(expected) == utterances
    for id_, [(_, waveform)] in expected.items():
        samples, rate = run.audio(id_)
        assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, 16_000)
        assert np.array_equal(samples, waveform)


def test_a_recording_that_is_cut_into_chunks_comes_whole(calls: Path, tmp_path: Path) -> None:
    manifest, run = opened(calls, tmp_path / "run", "recordings", "mix")
    for id_, chunks in loaded(manifest, "mix", CUT).items():
        samples, _ = run.audio(id_)
        assert len(chunks) > 1
        assert len(samples) == 48_000
        for start, waveform in chunks:
            assert np.array_equal(samples[start : start + len(waveform)], waveform)


def test_a_selection_has_the_waveforms_of_its_utterances_only(calls: Path, tmp_path: Path) -> None:
    _, run = opened(calls, tmp_path / "run", "recordings", "mix")
    some = run.select(sample_rate=8_000)
    assert np.array_equal(some.audio("phone.wav")[0], run.audio("phone.wav")[0])
    with pytest.raises(KeyError, match=r"mono\.wav: no such id in this selection"):
        some.audio("mono.wav")
    with pytest.raises(KeyError, match=r"mono\.wa: no such id in the manifest .* \(did you mean mono\.wav\?\)"):
        run.audio("mono.wa")


def test_a_recording_that_is_gone_or_has_changed_is_named_with_the_remedy(calls: Path, tmp_path: Path) -> None:
    root = tmp_path / "calls"
    root.mkdir()
    for name in ("mono.wav", "phone.wav", "stereo.flac"):
        (root / name).write_bytes((calls / name).read_bytes())
    _, run = opened(root, tmp_path / "run", "recordings", "mix")
    (root / "mono.wav").unlink()
    (root / "phone.wav").write_bytes((calls / "phone.wav").read_bytes()[:-2])
    size = os.path.getsize(root / "stereo.flac")
    soundfile.write(root / "stereo.flac", np.zeros(100), 8_000)
    (root / "stereo.flac").write_bytes((root / "stereo.flac").read_bytes().ljust(size, b"\0"))
    remedy = "put the recording that the run read back into its place"
    with pytest.raises(FileNotFoundError, match=rf"mono\.wav: {root}/mono\.wav: not_found: .*; {remedy}"):
        run.audio("mono.wav")
    with pytest.raises(OSError, match=rf"phone\.wav: {root}/phone\.wav: changed: .*; {remedy}"):
        run.audio("phone.wav")
    with pytest.raises(OSError, match=rf"changed: the sample rate is 8000 Hz, but was 16000 Hz in the run; {remedy}"):
        run.audio("stereo.flac")


def test_only_another_sample_rate_needs_torch(calls: Path, tmp_path: Path) -> None:
    opened(calls, tmp_path / "run", "recordings", "mix")
    code = (
        "import sys\nfrom pipeline.results import open_run\n"
        f"run = open_run({str(tmp_path / 'run')!r})\nrun.audio('mono.wav'), run.audio('stereo.flac')\n"
        "assert 'torch' not in sys.modules\nrun.audio('phone.wav')\nassert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_the_sample_rate_is_that_of_the_tables_or_else_of_the_model(calls: Path, tmp_path: Path) -> None:
    _, run = opened(calls, tmp_path / "run", "recordings", "mix")
    assert run.sample_rate == 16_000
    options = {"model.architecture": "wav2vec2_base"}
    RunDirectory(run.path).write("run.json", run_record(model="checkpoint", options=options).encode())
    assert run.sample_rate == 16_000
    foreign = open_run(make_run(tmp_path / "foreign", [[Spoken("a")]], outputs=["transcripts"]))
    with pytest.raises(LookupError, match="no emissions or features are committed"):
        _ = foreign.sample_rate
