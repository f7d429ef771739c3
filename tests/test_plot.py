"""Pictures of one utterance from the command line: what is drawn, where it goes, what is said where it cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import make_run as make_run_module
import numpy as np
import pytest
from make_run import STRIDE_S, Spoken, make_run
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from running import environment

from pipeline import plot
from pipeline.plot import file_name
from pipeline.report import figures, fonts
from pipeline.report.excerpts import Excerpt
from pipeline.report.figures import emission_figure, feature_figure
from pipeline.report.fonts import Fonts, fonts_for
from pipeline.report.labels import roles_of
from pipeline.results import Run, open_run
from pipeline.results.arrays import log_probabilities

RANDOM = np.random.default_rng(5)
MANY_LABELS = Excerpt("x", "", 0, 0.02, [], labels=[f"L{index}" for index in range(3000)])
HOSTILE = "../$x^{$<b>\u202egnp\u202c'\"\\ " + "long " * 60


def spoken(id_: str, num_frames: int = 60, **given: Any) -> Spoken:
    return Spoken(
        id_,
        words=[("HELLO", 5, 20, 0.9), ("$x_{", 22, 40, 0.5)],
        features={layer: RANDOM.normal(size=(num_frames, 12)) for layer in (1, 2, 12)},
        emission=RANDOM.normal(size=(num_frames, 5)),
        num_frames=num_frames,
        **given,
    )


SHARDS = [
    [spoken("calls/one"), spoken("part", start_s=100.0), spoken("bad", failed=True), spoken(HOSTILE)],
    [spoken("long", num_frames=4000), spoken("short", num_frames=50)],
    [spoken("pending")],
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made") / "run", SHARDS, frames_per_part=1000, uncommitted=[2])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, as objects."""
    found: list[Figure] = []
    encode = figures.encode

    def keep(figure: Figure, format_: str) -> bytes:
        found.append(figure)
        return encode(figure, format_)

    monkeypatch.setattr(figures, "encode", keep)
    return found


def texts(figure: Figure) -> list[str]:
    """Everything a figure says that is seen."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def image_of(figure: Figure) -> AxesImage:
    return next(image for axes in figure.axes for image in axes.get_images())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert plot.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    return said.err


def test_every_layer_and_the_emission_are_drawn_and_named(
    run_dir: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot.main([str(run_dir), "calls/one"]) == 0
    names = [f"{file_name('calls/one')}-{name}.png" for name in ("layer-01", "layer-02", "layer-12", "emission")]
    paths = [run_dir / "report" / "plots" / name for name in names]
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(path) for path in paths]
    assert said.err == ""
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.width > 1000
    for layer, figure in zip((1, 2, 12), drawn, strict=False):
        assert {f"Feature from transformer layer {layer}", "Time in the recording (s)", "Feature dimension"} <= set(
            texts(figure)
        )
        feature = SHARDS[0][0].features[layer].astype(np.float16).astype(np.float32)
        assert np.array_equal(image_of(figure).get_array(), feature.T)
    emission = texts(drawn[3])
    assert {"Classification result", "Class", "logits (no unit)", "HELLO", "$x_{"} <= set(emission)
    axes = image_of(drawn[3]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["blank -", "delimiter |", "A", "B", "C"]
    assert np.array_equal(image_of(drawn[3]).get_array(), SHARDS[0][0].emission.astype(np.float32).T)
    assert axes.get_xlim() == pytest.approx((0, 60 * STRIDE_S))
    assert axes.get_ylim() == (4.5, -0.5)  # the first label on top, as in the tutorial


def test_words_stand_over_their_times_in_the_file(run_dir: Path, drawn: list[Figure]) -> None:
    for id_ in ("calls/one", "part"):
        assert plot.main([str(run_dir), id_, "--layers", "2"]) == 0
    for figure, begins_s in zip(drawn, (0.0, 0.0, 100.0, 100.0), strict=True):
        lines = [line.get_xdata() for line in figure.axes[0].get_lines()]
        first, second = ([begins_s + STRIDE_S * frame for frame in frames] for frames in ((5, 20), (22, 40)))
        assert [list(line) for line in lines] == [pytest.approx(first), pytest.approx(second)]
        assert [text.get_text() for text in figure.axes[0].texts] == ["HELLO", "$x_{"]
        middles = [sum(first) / 2, sum(second) / 2]
        assert [text.get_position()[0] for text in figure.axes[0].texts] == pytest.approx(middles)
        assert image_of(figure).get_extent()[0] == pytest.approx(begins_s)
    assert image_of(drawn[0]).axes.get_xlabel() == "Time in the recording (s)"
    said = "Time in the recording (s); the utterance is 100.00 to 101.20 s of it"
    assert image_of(drawn[2]).axes.get_xlabel() == said


def test_only_what_is_asked_for_is_drawn(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert plot.main([str(run_dir), "part", "--layers", "12,1,12", "--out", str(out), "--format", "svg"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        f"part-{n}.svg" for n in ("emission", "layer-01", "layer-12")
    ]
    assert ElementTree.parse(out / "part-emission.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    first = (out / "part-emission.svg").read_bytes()
    again = [str(run_dir), "part", "--layers", "1", "--out", str(out), "--format"]
    assert plot.main([*again, "svg"]) == 0
    assert (out / "part-emission.svg").read_bytes() == first
    assert plot.main([*again, "pdf"]) == 0
    assert (out / "part-emission.pdf").read_bytes().startswith(b"%PDF")


def test_an_id_is_never_a_path_nor_markup(
    run_dir: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(run_dir.parent.rglob("*"))
    assert plot.main([str(run_dir), HOSTILE]) == 0
    new = {path for path in set(run_dir.parent.rglob("*")) - before if path.is_file()}
    assert len(new) == 4
    assert {path.parent for path in new} == {run_dir / "report" / "plots"}
    assert all(path.name.isascii() and len(path.name) < 140 for path in new)
    said = " ".join(texts(drawn[0]))
    assert r"../$x^{$<b>\u202e" in said
    assert "\u202e" not in said + capsys.readouterr().out


def test_an_id_that_looks_like_an_option_is_drawn_behind_two_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["-x.flac", "--out", "-h", "--"]
    run_dir = make_run(tmp_path / "run", [[spoken(id_) for id_ in ids]], outputs=["emissions"])
    for id_ in ids:
        assert plot.main(["--format", "svg", "--", str(run_dir), id_]) == 0
    written = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert written == [f"{file_name(id_)}-emission.svg" for id_ in ids]
    assert plot.main(["--help"]) == 0
    assert "[option ...] -- RUN_DIR ID" in capsys.readouterr().out


def test_names_of_files_are_one_for_every_id() -> None:
    ids = ["a", "a/b", "a%2Fb", "..", ".", "-x", "~x", "x" * 300, "x" * 301, "Ü", "\udcff", "", " ", "a\0b", "CON\n"]
    names = [file_name(id_) for id_ in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert "/" not in name
        assert name[:1] not in (".", "-", "~")
        assert len(name.encode()) < 130
        assert re.fullmatch(r"[\w.-]+", name)
    assert file_name("theo-6digits-34.flac") == "theo-6digits-34.flac"


def test_of_a_very_long_utterance_the_first_minute_is_drawn_and_that_is_said(
    run_dir: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    layers = ["--layers", "1"]
    assert plot.main([str(run_dir), "long", *layers]) == 0
    assert "draws 0.00 to 60.00 s of 0.00 to 80.00 s; choose another part with --start" in capsys.readouterr().err
    assert image_of(drawn[0]).get_array().shape == (12, 3000)
    assert (
        plot.main([str(run_dir), "long", "--start", "19.96", "--end", "20.06", *layers]) == 0
    )  # over the end of a part
    assert capsys.readouterr().err == ""
    values = SHARDS[1][0].features[1][998:1003].astype(np.float16).astype(np.float32)
    assert np.array_equal(image_of(drawn[2]).get_array(), values.T)
    assert image_of(drawn[2]).axes.get_xlim() == pytest.approx((19.96, 20.06))
    assert plot.main([str(run_dir), "part", "--start", "100.5", *layers]) == 0
    assert image_of(drawn[-1]).axes.get_xlim() == pytest.approx((100.5, 101.2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calls/two"], ["calls/two", "no such id", "did you mean calls/one?"]),
        (["bad"], ["bad", "truncated: cut short", "retry_failed=true"]),
        (["pending"], ["pending", "not committed yet", "to continue"]),
        (["part", "--layers", "3"], ["--layers=3", "1, 2, 12"]),
        (["part", "--layers", "last"], ["--layers=last", "such as 1,6,12"]),
        (["part", "--values", "probability"], ["--values=probability", "logits, log-probabilities"]),
        (["part", "--format", "gif"], ["--format=gif", "png, svg, pdf"]),
        (["part", "--start", "5"], ["--start=5", "100.00 to 101.20 s"]),
        (["part", "--start", "101", "--end", "100.5"], ["--end=100.5", "100.00 to 101.20 s"]),
        (["short", "--start", "0.999"], ["--start=0.999", "no frame", "give an earlier"]),
        (["part", "--end", "nan"], ["--end=nan", "seconds"]),
        (["part", "--start", "soon"], ["soon", "usage: python -m pipeline.plot"]),
        (["part", "--colour", "red"], ["--colour", "usage"]),
        ([], ["ID", "usage"]),
        (["-x.flac"], ["ID", "begins with -", "-- RUN_DIR ID"]),
    ],
)
def test_what_cannot_be_drawn_is_one_line_with_the_remedy(
    run_dir: Path, arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, str(run_dir), *arguments)
    for words in said:
        assert words in line


def test_no_run_there_damage_and_no_place_to_write_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run there" in refused(capsys, str(tmp_path), "x")
    run_dir = make_run(tmp_path / "run", [[spoken("x")]])
    (tmp_path / "file").touch()
    assert "give another --out" in refused(capsys, str(run_dir), "x", "--out", str(tmp_path / "file" / "under"))
    path = run_dir / "features" / "shard-00000.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert "pipeline.verify" in refused(capsys, str(run_dir), "x")


def test_what_is_there_is_drawn_and_what_is_not_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(outputs: list[str]) -> list[str]:
        run_dir = make_run(tmp_path / "-".join(outputs), [[spoken("x")]], outputs=outputs)
        assert plot.main([str(run_dir), "x"]) == 0
        return sorted(path.name for path in (run_dir / "report" / "plots").iterdir())

    assert names(["emissions"]) == ["x-emission.png"]
    assert "no features of this utterance; outputs=[features]" in capsys.readouterr().err
    assert names(["features"]) == ["x-layer-01.png", "x-layer-02.png", "x-layer-12.png"]
    assert "no emissions of this utterance; outputs=[emissions]" in capsys.readouterr().err
    nothing = make_run(tmp_path / "nothing", [[spoken("x")]], outputs=["transcripts"])
    assert "outputs=[emissions,features]" in refused(capsys, str(nothing), "x")
    assert not (nothing / "report").exists()


def test_of_thousands_of_labels_the_most_likely_are_shown() -> None:
    emission = RANDOM.normal(size=(30, 3000))
    emission[7, [2, 2999]] = 50
    figure = emission_figure(emission, "logits", MANY_LABELS)
    assert image_of(figure).get_array().shape == (figures.MAX_LABELS, 30)
    assert {"L2", "L2999", "Class (of 3,000, the 64 most likely)"} <= set(texts(figure))
    labels = [label.get_text() for label in image_of(figure).axes.get_yticklabels()]
    assert labels == sorted(labels, key=lambda label: int(label[1:]))


@pytest.mark.parametrize("values_are", ["logits", "log-probabilities"])
def test_the_most_likely_labels_are_those_of_probability_not_of_large_logits(values_are: str) -> None:
    emission = RANDOM.normal(size=(30, 3000))
    emission[7, [2, 2999]] = 8
    emission[8] += 100  # tells nothing of its labels: no more likely than in any other frame
    if values_are == "log-probabilities":
        emission -= np.log(np.exp(emission).sum(axis=1, keepdims=True))
    figure = emission_figure(emission, values_are, MANY_LABELS)
    assert {"L2", "L2999"} <= set(texts(figure))
    shown = np.asarray(image_of(figure).get_array())
    assert np.isclose(shown.max(), emission.max())  # as they are stored, whatever they were chosen by


def test_log_probabilities_are_drawn_where_they_are_asked_for(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says = spoken("x")
    run_dir, emission = make_run(tmp_path / "run", [[says]], outputs=["emissions"]), says.emission.astype(np.float32)
    assert plot.main([str(run_dir), "x", "--values", "log-probabilities"]) == 0
    assert np.allclose(image_of(drawn[0]).get_array().T, log_probabilities(emission), atol=1e-6)
    assert "log-probabilities (natural logarithm)" in texts(drawn[0])
    assert image_of(drawn[0]).get_clim() == (pytest.approx(np.log(1e-4)), 0.0)
    metadata = {**open_run(run_dir).emission_metadata, "values": "log-probabilities"}
    monkeypatch.setattr(Run, "emission_metadata", metadata)
    assert plot.main([str(run_dir), "x"]) == 0
    assert np.array_equal(image_of(drawn[1]).get_array().T, emission)  # as they are stored
    capsys.readouterr()
    assert "cannot be turned into logits" in refused(capsys, str(run_dir), "x", "--values", "logits")


def test_labels_that_stand_for_no_character_are_named() -> None:
    labels = ["a", "<pad>", " ", "|"]
    assert roles_of({"labels": labels, "blank": 1, "delimiter": " "}) == {1: "blank", 2: "delimiter"}
    assert roles_of({"labels": labels, "blank": 1, "delimiter": ""}) == {1: "blank"}
    assert roles_of({"labels": labels, "blank": 1}) == {1: "blank", 3: "delimiter"}  # of an earlier release


def test_a_font_that_has_the_characters_is_found_and_the_rest_is_named() -> None:
    assert fonts_for(["Hello, мир\u200d "]) == Fonts(("DejaVu Sans",), frozenset())
    script_e = "\u212f\U0001d4bb"  # in a font that matplotlib brings along, not in its first one
    families = fonts_for([script_e, "\U0010fffd"])
    assert families.missing == {"\U0010fffd"}
    assert families.families[0] == "DejaVu Sans"
    assert len(families.families) > 1


def test_a_character_without_a_font_is_no_box(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "_families", lambda wanted: {})  # a machine without further fonts
    monkeypatch.setattr(make_run_module, "LABELS", ("-", " ", "न", "a", "xन"))
    says = Spoken("नx", words=[("aनa", 5, 20, 0.9)], emission=RANDOM.normal(size=(60, 5)), num_frames=60)
    assert plot.main([str(make_run(tmp_path / "run", [[says]], outputs=["transcripts", "emissions"])), "नx"]) == 0
    labels = [label.get_text() for label in image_of(drawn[0]).axes.get_yticklabels()]
    assert labels == ["blank -", "U+0020", "U+0928", "a", "xU+0928"]
    assert "a?a" in texts(drawn[0])
    said = capsys.readouterr().err
    assert "1 character of the pictures, such as न;" in said
    assert "fonts-noto-core" in said


def test_neighbouring_frames_share_a_column_only_where_there_are_too_many_and_no_peak_is_lost() -> None:
    emission = np.zeros((10_000, 3), np.float32)
    emission[5_003, 2] = 9
    shown = image_of(emission_figure(emission, "logits", Excerpt("x", "", 0, 0.02, [], labels="abc"))).get_array()
    assert shown.shape == (3, figures.MAX_COLUMNS)
    assert np.argwhere(shown).tolist() == [[2, 5_003 * figures.MAX_COLUMNS // 10_000]]
    feature = np.repeat(np.arange(10.0, dtype=np.float32), 1_000)[:, None]
    mean = image_of(feature_figure(feature, 1, Excerpt("x", "", 0, 0.02, []))).get_array()
    assert (mean.min(), mean.max(), mean.mean()) == (0, 9, pytest.approx(4.5, abs=0.01))


def test_many_words_are_turned_and_never_stand_on_one_another() -> None:
    feature = RANDOM.normal(size=(3000, 4))

    def shown(count: int) -> tuple[set[float], list[float]]:
        step = 60 / count
        words = [("WORDS", step * at, step * (at + 0.5)) for at in range(count)]
        figure = feature_figure(feature, 1, Excerpt("x" * 600, "0 to 1 s", 0, 0.02, words))
        figure.draw_without_rendering()
        title, name = (figure.axes[0].get_title(loc=loc) for loc in ("left", "right"))
        assert (title, len(name) < 600) == ("Feature from transformer layer 1", True)
        assert len(figure.axes[0].get_lines()) == count
        texts = figure.axes[0].texts
        boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.x0)
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
        left_out = f"; {count - len(texts)} of {count} words have no room"
        assert figure.axes[1].get_xlabel().endswith(left_out) == (len(texts) < count)
        return {text.get_rotation() for text in texts}, [text.get_position()[0] for text in texts]

    assert shown(5)[0] == {0.0}
    rotations, places = shown(80)
    assert (rotations, len(places)) == ({90.0}, 80)
    assert 50 < len(shown(500)[1]) < 250


def test_the_help_page_and_the_import_are_light(run_dir: Path) -> None:
    code = (
        "import sys\nfrom pipeline.plot import main\nassert main(['--help']) == 0\n"
        "assert not {'torch', 'torchaudio', 'hydra', 'matplotlib'} & set(sys.modules)\n"
        f"assert main([{str(run_dir)!r}, 'part']) == 0\n"
        "assert not {'torch', 'torchaudio', 'hydra', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: python -m pipeline.plot RUN_DIR ID" in ended.stdout
