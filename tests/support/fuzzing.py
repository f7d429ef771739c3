"""Damage to real files, and a process of its own to read them in, which may die or hang without ending the tests.

python tests/support/fuzzing.py audio       one JSON object a line in, `null` or what is wrong a line out
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from hypothesis import strategies as st
from running import DATA, environment

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
"""How long each fuzzing test goes on; without it, for one round."""
HANG_S = 20.0
"""A file of some kilobytes is read in milliseconds."""
MEMORY_BYTES = 2**30
"""What reading may take beyond what the process had: a hundred thousand times such a file."""
MAX_BYTES = 2**18
# Counts and sizes that mislead, and values that are none.
BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
)
WORDS = (
    b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1e999", b"1e307", b"NaN", b"9" * 40, b"/", b"..", b"http://x",
    b"\n", b"\r", b"\t", b",", b";", b"|", b'"', b"\\", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800",
)  # fmt: skip
_WORD = re.compile(rb'"[^"\n]*"|[\w.+-]+')

# -- Damage --------------------------------------------------------------------------------------------------------

Kind = Literal["flip", "set", "word", "cut", "drop", "insert", "repeat", "splice"]


class Change(NamedTuple):
    """One damage.

    Attributes:
        kind: What is done.
        where: Offset from the beginning, if negative from the end; a float is a part of the whole.
        amount: Bytes, or how often.
        data: What is written.
    """

    kind: Kind
    where: float
    amount: int
    data: bytes


def changes(telling: Sequence[bytes], often: Sequence[Kind] = ()) -> st.SearchStrategy[list[Change]]:
    """One to six changes, of some kinds more often; what they write is mostly one of the telling ones."""
    change = st.builds(
        Change,
        st.sampled_from([*Kind.__args__, *often]),
        st.integers(0, 300) | st.integers(-200, -1) | st.floats(0, 1),
        st.integers(1, 8) | st.integers(1, 3_000),
        st.sampled_from(telling) | st.sampled_from(telling) | st.binary(min_size=1, max_size=12),
    )
    return st.lists(change, min_size=1, max_size=6)


def damaged(whole: bytes, made: Sequence[Change], others: Sequence[bytes]) -> bytes:
    """A file with the changes `made`; `others` are those that a splice takes from."""
    data = bytearray(whole)
    for kind, where, amount, new in made:
        at = int(where * len(data)) if isinstance(where, float) else where % (len(data) + 1)
        match kind:
            case "flip":
                for offset, byte in enumerate(new):
                    if at + offset < len(data):
                        data[at + offset] ^= byte
            case "set":
                data[at : at + len(new)] = new
            case "word":
                if word := _WORD.search(data, at):
                    data[word.start() : word.end()] = new
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + amount]
            case "insert":
                data[at:at] = new
            case "repeat":
                stretch = bytes(data[at : at + amount])
                data[at:at] = stretch * (1 + new[0])
            case "splice":
                other = others[new[0] % len(others)]
                begin = int.from_bytes(new[1:4], "big") % len(other)
                data[at : at + amount] = other[begin : begin + amount]
        del data[MAX_BYTES:]
    return bytes(data)


def for_a_while(one_round: Callable[[], None]) -> None:
    """Once, and again until FUZZ_MINUTES are over; every round draws others."""
    end = time.monotonic() + 60 * MINUTES
    one_round()
    while time.monotonic() < end:
        one_round()


# -- The process that reads ----------------------------------------------------------------------------------------


class Reader:
    """Checks files in a process of its own, which is started again after a crash."""

    def __init__(self, kind: Literal["audio", "list"], folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end()

    def check(self, files: dict[str, bytes], **options: Any) -> None:
        """Reads what the files make.

        Args:
            files: Name to contents; the first one is read, or with several the folder.
            options: Of the manifest's reader.

        Raises:
            AssertionError: It crashed, hung, or was not what it should be; with the path of a copy.
        """
        place = self.folder / "files"
        place.mkdir(exist_ok=True)
        for name, data in files.items():
            (place / name).write_bytes(data)
        wrong = self._ask({"path": str(place if len(files) > 1 else place / next(iter(files))), **options})
        if wrong is not None:
            digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
            for name, data in files.items():
                (self.folder / f"{digest}-{name}").write_bytes(data)
            raise AssertionError(f"{wrong}\nThe bytes are kept: {self.folder}/{digest}-*")

    def _ask(self, request: dict[str, Any]) -> str | None:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANG_S)
        if not ready:
            self._end()
            return f"reading it takes longer than {HANG_S:g} s"
        answer = process.stdout.readline()
        complaint = self._complaints.read()
        if answer:
            wrong: str | None = json.loads(answer)
            # An exception in a callback of libsndfile's or FFmpeg's is printed, and swallowed.
            return wrong or (complaint.decode(errors="replace") if b"Traceback" in complaint else None)
        code = self._end()
        return f"the process that read it died: {signal.Signals(-code).name if code < 0 else code}"

    def _start(self) -> subprocess.Popen[bytes]:
        stderr = self.folder / "stderr"
        with open(stderr, "wb") as file:
            self._complaints = open(stderr, "rb")  # noqa: SIM115 - closed with the process
            self._process = subprocess.Popen(
                [sys.executable, __file__, self.kind],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        return self._process

    def _end(self) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        try:
            process.wait(0.2)  # it may be on its way out, and how it died is of interest
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        self._complaints.close()
        return process.returncode


# -- What is checked there -----------------------------------------------------------------------------------------


def check_audio(path: str, at_least: int = 0) -> None:
    """A recording gives samples, at least so many, or an error by one of its names; and the header agrees."""
    import numpy as np

    from pipeline.audio.reader import MAX_CHANNELS, AudioError, open_recording, read_header
    from pipeline.audio.waveforms import read_waveform

    file_size = os.path.getsize(path)
    header = None
    try:
        header = read_header(path)
        samples, rate = read_waveform(path, file_size=file_size)
    except AudioError as error:
        _check_error(error)
        return
    _check_samples(samples, file_size)
    assert len(samples) >= at_least, f"{len(samples)} samples and no error, of {at_least}"
    assert rate == header.sample_rate
    assert 1_000 <= rate <= 768_000
    assert 1 <= header.num_channels <= MAX_CHANNELS
    assert 0 <= header.num_samples - len(samples) <= 0.1 * rate, f"{len(samples)} of {header.num_samples} samples"
    with open_recording(path) as recording:
        exact = recording.exact
    first, last = len(samples) // 3, len(samples) // 3 * 2
    try:
        part, _ = read_waveform(path, start_s=first / rate, end_s=last / rate)
    except AudioError as error:
        _check_error(error)
        _require(not exact or error.error == "empty", str(error))
        return
    _check_samples(part, file_size)
    assert not exact or np.array_equal(part, samples[first:last]), "a segment is not the part of the whole"


def _check_error(error: Any) -> None:
    from pipeline.records import ErrorName

    # What has to do with damage; `out_of_memory` would be an allocation that no such file deserves.
    others = {"not_found", "changed", "timeout", "worker_died", "out_of_memory", "too_short"}
    assert error.error in set(ErrorName.__args__) - others, str(error)
    assert error.message.isprintable(), str(error)
    assert 5 < len(error.message) < 300, str(error)


def _check_samples(samples: Any, file_size: int) -> None:
    import numpy as np

    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # A FLAC frame of silence packs most.
    assert 0 < len(samples) <= 8_192 * file_size
    assert np.isfinite(samples).all()


def _require(truth: bool, message: str) -> None:
    assert truth, message


def check_list(path: str, **options: Any) -> None:
    """A list gives utterances that fit a table, or a refusal in one line."""
    import pyarrow as pa

    from pipeline.datasets import manifest
    from pipeline.datasets.formats.mapping import Columns
    from pipeline.datasets.formats.values import MAX_SECONDS
    from pipeline.runtime.errors import UserError
    from pipeline.storage import tables

    columns = Columns(**options.pop("columns", {}))
    try:
        given = manifest.Dataset(manifest.Options(path=path, columns=columns, **options))
        names = tables.own_column_names(given.columns())
        schema = tables.manifest_schema({names[name]: kind for name, kind in given.columns().items()})
        rows = list(given.utterances())
    except UserError as error:
        _require(str(error).isprintable(), repr(error))
        return
    assert rows
    assert len(set(schema.names)) == len(schema.names)
    for row in rows:
        pa.array([row.id, row.reference], pa.string())
        assert Path(row.path).is_absolute() or (row.error is not None and not row.path)
        assert row.error is None or row.error.isprintable()
        assert row.id
        assert row.channel is None or 1 <= row.channel < 2**15
        for time_s in (row.start_s, row.end_s):
            assert time_s is None or (math.isfinite(time_s) and abs(time_s) <= 2 * MAX_SECONDS)
        for name, value in row.columns.items():
            pa.array([value], schema.field(names[name]).type)


def _warm_up(kind: str) -> None:
    """Loads what is loaded once, which is not the files' doing."""
    if kind == "audio":
        check_audio(str(DATA / "formats" / "aac.m4a"))
        check_audio(str(DATA / "fsdd" / "7_theo_1.wav"))
    else:
        import pyarrow.parquet

        assert pyarrow.parquet
        check_list(str(DATA / "lhotse" / "cuts.jsonl.gz"))


def main(kind: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a decoder may print
    _warm_up(kind)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    check = check_audio if kind == "audio" else check_list
    for line in sys.stdin:
        try:
            check(**json.loads(line))
            wrong = None
        except Exception:  # noqa: BLE001 - whatever it is, the other side shows it
            wrong = traceback.format_exc()
        print(json.dumps(wrong), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1])
