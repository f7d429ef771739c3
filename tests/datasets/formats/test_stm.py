"""STM: references of NIST's scoring tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from lists import dataset, read, refused

STM = """;; a comment
talk 1 alice 0.50 1.25 <o,f0,female> good <unk> morning
talk 1 bob 1.25 2 <unk> yes
talk 1 inter_segment_gap 2 3.5 <o,,unknown> ignore_time_segment_in_scoring
talk 1 carol 2 3.5 two

"""


def test_every_line_is_a_segment(tmp_path: Path) -> None:
    (tmp_path / "sph").mkdir()
    (tmp_path / "sph" / "talk.SPH").touch()
    given = dataset(tmp_path, STM, "test.stm")
    first, second, gap, last = given.utterances()
    assert (first.id, first.start_s, first.end_s, first.channel) == ("talk#500-1250", 0.5, 1.25, None)
    assert first.path == str(tmp_path / "sph" / "talk.SPH")
    assert (first.reference, first.columns) == ("good <unk> morning", {"speaker": "alice", "labels": "o,f0,female"})
    assert (second.reference, second.columns["labels"]) == ("<unk> yes", None)
    assert gap.reference is None
    assert (gap.id, last.id) == ("talk#2000-3500#inter_segment_gap", "talk#2000-3500#carol")


def test_both_sides_of_a_call(tmp_path: Path) -> None:
    sides = read(tmp_path, "call A x 0 1 a\ncall B y 0 1 b\n", "l.stm")
    assert [(side.id, side.channel) for side in sides] == [("call#0-1000#c1#x", 1), ("call#0-1000#c2#y", 2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("talk 1 alice 0.5", "line 1: 4 fields; expected file channel speaker start end <labels> text"),
        ("talk 1 alice x 1 text", "start='x': must be a number of seconds"),
        ("../talk 1 alice 0 1 text", "must be the name of a recording"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    assert reason in refused(tmp_path, f"{line}\n", "l.stm")
