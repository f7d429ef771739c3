"""Encode recordings of tests/data in every format that needs FFmpeg, and store the samples that ffmpeg decodes.

Example:
    python scripts/data/make_format_recordings.py --ffmpeg ffmpeg --out tests/data/formats

`ffmpeg` is version 9 or newer, because version 7 and older write a wrong codec delay into WebM. It needs libopus,
libvorbis, libvpx, libx264, libspeex and libopencore_amrnb. The library vo-amrwbenc encodes AMR-WB (Debian:
libvo-amrwbenc0).

For every recording, `reference.npz` has samples 0, 11, 22 and so on of `ffmpeg -i FILE -f f32le -` as 16-bit integers.
The integers hide differences in the last bits, which floating-point decoders have between processors.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parents[2] / "tests" / "data"
SPEECH = ("-ss", "0.2", "-t", "1.3", "-i", str(DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0880.wav"))
SHORT = ("-ss", "0.2", "-t", "0.6", *SPEECH[4:])
STEREO = ("-ss", "0.3", "-t", "0.8", "-i", str(DATA / "long" / "jfk.flac"))
VIDEO = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=0.8")
H264 = ("-c:v", "libx264", "-crf", "40", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "32k")
OPUS = ("-ar", "48000", "-c:a", "libopus", "-b:a", "24k")
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "300000")

RECIPES: dict[str, tuple[str, ...]] = {
    "aac.m4a": (*STEREO, "-c:a", "aac", "-b:a", "64k"),
    "alac.m4a": (*SHORT, "-c:a", "alac"),
    "video.mp4": (*VIDEO, *SHORT, *H264, *AAC),
    "silent.mp4": (*VIDEO, *H264),
    "fragmented.mp4": (*SPEECH, *AAC, *FRAGMENTS),
    "pcm.mov": (*SHORT, "-ar", "8000", "-c:a", "pcm_s16le"),
    "opus.webm": (*SPEECH, *OPUS),
    "live.webm": (*SPEECH, *OPUS, "-f", "webm", "-live", "1"),
    "video.webm": (*VIDEO, *STEREO, "-c:v", "libvpx", "-b:v", "20k", "-c:a", "libvorbis", "-q:a", "0"),
    "flac.mka": (*SHORT, "-c:a", "flac"),
    "aac.mkv": (*SPEECH, *AAC),
    "wmav2.wma": (*SPEECH, "-ar", "44100", "-c:a", "wmav2", "-b:a", "32k"),
    "adts.aac": (*SPEECH, *AAC),
    "nb.amr": (*SPEECH, "-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k"),
    "nb.3gp": (*SPEECH, "-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k"),
    "speex.ogg": (*SPEECH, "-c:a", "libspeex"),
    "ima4.caf": (*SHORT, "-c:a", "adpcm_ima_qt"),
}
EVERY = 11


def main() -> None:
    """Write the recordings, `reference.npz` and `reference.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ffmpeg", nargs="+", default=["ffmpeg"], help="several: each recipe by the first that can")
    parser.add_argument("--out", type=Path, default=DATA / "formats")
    options = parser.parse_args()
    programs = [shutil.which(program) or program for program in options.ffmpeg]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, recipe in RECIPES.items():
        encode(programs, recipe, options.out / name)
    with tempfile.TemporaryDirectory() as folder:
        wideband = Path(folder) / "wideband.s16"
        encode(programs, (*SPEECH, "-ar", "16000"), wideband, "-f", "s16le")
        (options.out / "wb.awb").write_bytes(amr_wideband(wideband.read_bytes()))
    encode(programs, ("-i", str(options.out / "wb.awb"), "-c", "copy"), options.out / "wb.3gp")
    references, facts = {}, {}
    for name in sorted([*RECIPES, "wb.awb", "wb.3gp"]):
        if name != "silent.mp4":
            samples, rate = decode(programs[0], options.out / name)
            references[name] = np.round(samples[::EVERY] * 32767).astype(np.int16)
            facts[name] = {"sample_rate": rate, "num_channels": samples.shape[1], "num_samples": len(samples)}
    np.savez_compressed(options.out / "reference.npz", **references)
    (options.out / "reference.json").write_text(json.dumps(facts, indent=1) + "\n")


def encode(programs: list[str], recipe: tuple[str, ...], path: Path, *more: str) -> None:
    # Nothing of the machine or the moment in the file.
    plain = ("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact", "-flags:v", "+bitexact")
    errors = []
    for program in programs:
        command = [program, "-v", "error", "-y", "-bitexact", *recipe, *plain, *more, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        errors.append(done.stderr.strip())
    raise SystemExit(f"{path.name}: " + " | ".join(errors))


def amr_wideband(pcm: bytes, mode: int = 2) -> bytes:
    """`mode` 2 is 12.65 kbit/s; a frame is 20 ms (RFC 4867, 5)."""
    library = ctypes.CDLL("libvo-amrwbenc.so.0")
    library.E_IF_init.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.E_IF_init())
    result = b"#!AMR-WB\n"
    for start in range(0, len(pcm) - 639, 640):
        frame = ctypes.create_string_buffer(100)
        size = library.E_IF_encode(state, mode, ctypes.create_string_buffer(pcm[start : start + 640], 640), frame, 0)
        result += frame.raw[:size]
    return result


def decode(program: str, path: Path) -> tuple[NDArray[np.float32], int]:
    """`(samples, channels)` and the rate, as ffmpeg's WAV output says it."""
    command = [program, "-v", "error", "-i", str(path), "-c:a", "pcm_f32le", "-f", "wav", "-"]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    fmt = wav.index(b"fmt ") + 8
    channels, rate = int.from_bytes(wav[fmt + 2 : fmt + 4], "little"), int.from_bytes(wav[fmt + 4 : fmt + 8], "little")
    data = wav[wav.index(b"data") + 8 :]
    return np.frombuffer(data, "<f4").reshape(-1, channels), rate


if __name__ == "__main__":
    main()
