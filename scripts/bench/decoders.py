"""PyAV beside torchcodec: installation, speed, samples, seeking, damage, memory.

Example:
    python scripts/bench/decoders.py --out scripts/results/decoders

The script needs both packages (`pip install av torchcodec==0.11.*`). torchcodec also needs the shared libraries of an
FFmpeg 4 to 8, which its wheels do not contain. If the program `ffmpeg` is installed, the samples are compared with its
samples. Comparisons whose parts are missing are left out. The script writes a table as Markdown and all numbers as
JSON.

Every decoder runs in a separate process on one core. Times are CPU seconds of that process, the best of three.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
SPEECH = ROOT / "tests" / "data" / "librivox" / "sense_and_sensibility_01_austen_64kb-0870.wav"
FORMATS = ROOT / "tests" / "data" / "formats"
DECISION = Path(__file__).with_name("decoders_decision.md")
# Container, encoder, sample rate, bits per second.
ENCODINGS = {
    "m4a": ("mp4", "aac", 44_100, 64_000),
    "webm": ("webm", "libopus", 48_000, 24_000),
    "amr": ("amr", "libopencore_amrnb", 8_000, 12_200),
    "wma": ("asf", "wmav2", 44_100, 48_000),
    "aac": ("adts", "aac", 44_100, 64_000),
    "mka": ("matroska", "flac", 16_000, 0),
}
Decoded = tuple[NDArray[np.float32], int]


def ours(path: str) -> Decoded:
    from pipeline.audio.reader import named_errors, open_recording

    with named_errors(), open_recording(path) as recording:
        return np.concatenate(list(recording.blocks(None))), recording.decoder.samplerate


def ours_range(path: str, start_s: float, end_s: float) -> Decoded:
    from pipeline.audio.waveforms import read_waveform

    samples, rate = read_waveform(path, start_s=start_s, end_s=end_s)
    return samples[:, None], rate


def torchcodec(path: str) -> Decoded:
    from torchcodec.decoders import AudioDecoder

    samples = AudioDecoder(path).get_all_samples()
    return samples.data.numpy().T, samples.sample_rate


def torchcodec_range(path: str, start_s: float, end_s: float) -> Decoded:
    from torchcodec.decoders import AudioDecoder

    samples = AudioDecoder(path).get_samples_played_in_range(start_s, end_s)
    return samples.data.numpy().T, samples.sample_rate


DECODERS: dict[str, tuple[str, Callable[[str], Decoded], Callable[[str, float, float], Decoded]]] = {
    "PyAV": ("av", ours, ours_range),
    "torchcodec": ("torchcodec", torchcodec, torchcodec_range),
}


def main() -> None:
    """Run every decoder, print the table, write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of speech in each format")
    parser.add_argument("--out", type=Path, default=ROOT / "scripts" / "results" / "decoders")
    parser.add_argument("--one", nargs=2, metavar=("DECODER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, encoding in ENCODINGS.items():
            encode(Path(folder) / f"long.{name}", *encoding, options.minutes)
        results = {name: run(name, folder) for name in DECODERS if installed(DECODERS[name][0])}
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "minutes": options.minutes,
        "decoders": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    table = markdown(report)
    options.out.with_suffix(".md").write_text(table)
    print(table)


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def encode(path: Path, container: str, codec: str, rate: int, bitrate: int, minutes: float) -> None:
    import av

    speech, speech_rate = soundfile.read(SPEECH, dtype="int16")
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, **({"bit_rate": bitrate} if bitrate else {}))
        stream.layout = "mono"
        for turn in range(round(minutes * 60 * speech_rate / len(speech))):
            frame = av.AudioFrame.from_ndarray(speech[None], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = speech_rate, turn * len(speech), Fraction(1, speech_rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def run(name: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, folder]
    if shutil.which("taskset"):
        command = ["taskset", "-c", "0", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, folder: Path) -> dict[str, Any]:
    distribution, decode, decode_range = DECODERS[name]
    started = time.process_time()
    decode(str(FORMATS / "aac.m4a"))
    first_s = time.process_time() - started
    facts: dict[str, Any] = {"install": installation(distribution), "first_recording_s": round(first_s, 2)}
    facts["loads_torch"] = "torch" in sys.modules
    facts["samples"] = {path.name: compare(decode, path) for path in recordings()}
    facts["ranges"] = {path.name: ranges(decode, decode_range, path) for path in recordings()}
    facts["damaged"] = {path.name: damage(decode, path) for path in recordings()}
    before = peak_kb()
    facts["rtfx"] = {extension: speed(decode, folder / f"long.{extension}") for extension in ENCODINGS}
    facts["memory_mb"] = round((peak_kb() - before) / 1024)
    return facts


def recordings() -> list[Path]:
    known = json.loads((FORMATS / "reference.json").read_text())
    return [FORMATS / name for name in known]


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def installation(distribution: str) -> dict[str, Any]:
    """What it takes, and where the FFmpeg that was loaded comes from."""
    found = importlib.metadata.distribution(distribution)
    size = sum(
        path.stat().st_size for file in found.files or () if (path := Path(str(found.locate_file(file)))).exists()
    )
    maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    libraries = {line.split()[-1] for line in maps.splitlines() if "libavcodec" in line}
    versions = [match[1] for library in libraries if (match := re.search(r"libavcodec[^/]*\.so\.(\d+)", library))]
    licence = found.metadata["License-Expression"] or (found.metadata["License"] or "").strip().splitlines()[0]
    return {
        "version": found.version,
        "license": licence,
        "megabytes": round(size / 2**20),
        "libavcodec": int(versions[0]) if versions else None,
        "brings_ffmpeg": any("site-packages" in library or "av.libs" in library for library in libraries),
    }


def compare(decode: Callable[[str], Decoded], path: Path) -> str:
    """Against `reference.npz`, which has every 11th sample of what ffmpeg 9 decodes."""
    try:
        samples, _ = decode(str(path))
    except Exception as error:  # noqa: BLE001  # whatever it raises is the result
        return f"error: {type(error).__name__}"
    with np.load(FORMATS / "reference.npz") as references:
        expected = references[path.name] / 32767
    known = json.loads((FORMATS / "reference.json").read_text())[path.name]
    if len(samples) != known["num_samples"]:
        return f"{len(samples) - known['num_samples']:+d} samples"
    difference = float(np.abs(samples[::11] - expected).max())
    return "equal" if difference < 2 / 32767 else f"differs by {difference:.3f}"


def ranges(decode: Callable[[str], Decoded], part: Callable[[str, float, float], Decoded], path: Path) -> str:
    try:
        whole, rate = decode(str(path))
        start, stop = round(0.21 * rate), round(0.43 * rate)
        got, _ = part(str(path), start / rate, stop / rate)
    except Exception as error:  # noqa: BLE001
        return f"error: {type(error).__name__}"
    expected = whole[start:stop].mean(axis=1)
    mono = got.mean(axis=1)
    if len(mono) != len(expected):
        return f"{len(mono) - len(expected):+d} samples"
    difference = float(np.abs(mono - expected).max())
    return "equal" if difference < 1e-6 else f"differs by {difference:.3f}"


def damage(decode: Callable[[str], Decoded], path: Path) -> dict[str, str]:
    """Half a file, and rubbish in the middle: an error, or how much came without a word."""
    data = path.read_bytes()
    middle = len(data) // 2
    rubbish = np.random.default_rng(0).bytes(400)
    whole, _ = decode(str(path))
    results = {}
    for kind, damaged in {"cut": data[:middle], "rubbish": data[:middle] + rubbish + data[middle + 400 :]}.items():
        with tempfile.NamedTemporaryFile(suffix=path.suffix) as file:
            file.write(damaged)
            file.flush()
            try:
                samples, _ = decode(file.name)
                results[kind] = f"{len(samples)} of {len(whole)} samples, no error"
            except Exception as error:  # noqa: BLE001
                results[kind] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return results


def speed(decode: Callable[[str], Decoded], path: Path) -> float:
    """Seconds of audio in a CPU second."""
    times = []
    for _ in range(3):
        started = time.process_time()
        samples, rate = decode(str(path))
        times.append(time.process_time() - started)
    return round(len(samples) / rate / min(times))


def markdown(report: dict[str, Any]) -> str:
    decoders: dict[str, Any] = report["decoders"]
    machine = report["machine"]
    out = io.StringIO()

    def row(what: str, cell: Callable[[dict[str, Any]], object]) -> None:
        print(f"| {what} | " + " | ".join(str(cell(facts)) for facts in decoders.values()) + " |", file=out)

    def tally(cells: dict[str, str], good: str) -> str:
        bad = ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell != good)
        return f"{sum(cell == good for cell in cells.values())} of {len(cells)} {good}" + (f"; {bad}" if bad else "")

    def silent(facts: dict[str, Any], kind: str) -> str:
        names = [name for name, kinds in facts["damaged"].items() if kinds[kind].endswith("no error")]
        return f"{len(names)} of {len(facts['damaged'])} without an error" + (f": {', '.join(names)}" if names else "")

    print("# PyAV or torchcodec\n\n" + DECISION.read_text(), file=out)
    print(
        f"Measured by `scripts/bench/decoders.py` on {report['date']}: {machine['cpu']}, one of {machine['cores']}",
        file=out,
    )
    print(f"cores, Python {machine['python']}; {report['minutes']:g} minutes of speech in each format.\n", file=out)
    print("| | " + " | ".join(decoders) + " |\n|---|" + "---|" * len(decoders), file=out)
    row("version", lambda facts: facts["install"]["version"])
    row("licence of the wrapper", lambda facts: facts["install"]["license"])
    row("brings FFmpeg", lambda facts: "yes" if facts["install"]["brings_ffmpeg"] else "no: the system's")
    row("libavcodec used here", lambda facts: facts["install"]["libavcodec"])
    row("installed size, MB", lambda facts: facts["install"]["megabytes"])
    row("loads torch", lambda facts: "yes" if facts["loads_torch"] else "no")
    row("first recording, CPU s with imports", lambda facts: facts["first_recording_s"])
    for extension, (_, codec, rate, _) in ENCODINGS.items():
        row(f"{extension} ({codec}, {rate} Hz), x real time", lambda facts, name=extension: facts["rtfx"][name])
    row("peak memory for the above, MB, all samples held", lambda facts: facts["memory_mb"])
    row("samples against ffmpeg 9's", lambda facts: tally(facts["samples"], "equal"))
    row("a range against the same part of the whole", lambda facts: tally(facts["ranges"], "equal"))
    row("half a file", lambda facts: silent(facts, "cut"))
    row("rubbish in the middle", lambda facts: silent(facts, "rubbish"))
    return out.getvalue()


if __name__ == "__main__":
    main()
