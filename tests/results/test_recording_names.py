"""Names of recordings are safe in every file system, and no two are equal."""

from __future__ import annotations

from pipeline.results.recording_names import recording_names, safe_name


def test_the_file_name_is_enough_where_no_other_recording_has_it() -> None:
    paths = ["/r/mon/1.wav", "/r/tue/1.wav", "/r/tue/2.wav", "/r/tue_1.wav", "/r/tue/1.flac"]
    assert recording_names(paths, "/r") == {
        "/r/mon/1.wav": "mon_1",
        "/r/tue/1.wav": "tue_1.wav",
        "/r/tue/2.wav": "2",
        "/r/tue_1.wav": "tue_1",
        "/r/tue/1.flac": "tue_1.flac",
    }


def test_names_are_equal_in_no_case_and_stay_below_the_limit_of_file_systems() -> None:
    names = list(
        recording_names(["/r/A.wav", "/r/a.wav", "/r/ä.wav", "/r/a\u0308.wav", f"/r/{'ü' * 200}.wav"], "/r").values()
    )
    assert len({name.casefold() for name in names}) == len(names)
    assert max(len(name.encode()) for name in names) <= 150


def test_what_a_shell_or_a_file_system_treats_specially_is_replaced() -> None:
    assert safe_name("../a b#1%C3;\n'\"*") == "_.._a_b_1_C3_____"
    assert safe_name("") == "_"
    assert safe_name("-rf") == "_-rf"
    assert safe_name("हिन्दी") == "हिन्दी"
