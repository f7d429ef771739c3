"""The user guide: it builds without a warning, says everything there is, and what it shows works."""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import running
from memory_store import MemoryStore
from omegaconf import DictConfig, OmegaConf
from running import ROOT

from pipeline.compare.schemas import GROUPS as COMPARED_GROUPS
from pipeline.compare.schemas import LOGPROBS, WORDS, comparison_schema
from pipeline.config import commandline
from pipeline.config import run_config as config
from pipeline.config.groups import GROUPS, group_choices
from pipeline.config.schema import RULES
from pipeline.datasets import CONNECTORS
from pipeline.datasets.commonvoice import SPLITS
from pipeline.datasets.formats.delimited import DELIMITERS
from pipeline.datasets.formats.detect import FORMATS
from pipeline.models.sources import SOURCES
from pipeline.records import ErrorName
from pipeline.runtime import remote_files
from pipeline.runtime.errors import UserError
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage import tables
from scripts.docs.pages import DOCS, PAGES, READ, blocks_of
from scripts.docs.world import described

GENERATED = {"configuration.md", "commands.md", "api.md"}


@functools.cache
def guide(module: str) -> Any:
    """A module of scripts/docs, which import one another as mkdocs lets them."""
    sys.path.insert(0, str(ROOT / "scripts" / "docs"))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("guide") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # A proxy that nobody answers at: a build that fetches fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    env = running.environment(NO_MKDOCS_2_WARNING="1", **nowhere)
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    return folder


class Elements(HTMLParser):
    """The ids of a page, and what it loads by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.append(given["id"])
        names = ("src", "srcset", "data", "poster", "href", "xlink:href") if tag != "a" else ("ping",)
        self.loads += [given[name] for name in names if name in given]


# --- the site


def test_the_site_fetches_nothing_from_outside(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Elements(page).loads
        assert any(target.endswith(".css") for target in loads)
        assert [target for target in loads if re.match(r"\s*([a-z]+:)?//", target)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_no_page_has_an_anchor_twice(site: Path) -> None:
    for page in site.rglob("*.html"):
        ids = Elements(page).ids
        assert sorted({*ids}) == sorted(ids), page


def test_the_notebook_is_a_page_with_its_tables_sound_and_pictures(site: Path) -> None:
    page = (site / "tutorial.html").read_text(encoding="utf-8")
    for tag, count in (("<table>", 4), ("<audio", 1), ('<img alt="The picture', 2), ('class="language-sh ', 2)):
        assert page.count(tag) == count, tag
    assert "dataframe" not in page
    assert (site / "tutorial.ipynb").exists()


def test_the_site_works_from_disk_search_included(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "the guide is tested in a browser: apt-get install chromium"
    options = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*options.split(), "--disable-sync"])
        page = browser.new_page()
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.on("requestfailed", lambda request: troubles.append(request.url))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("timeout_s")
        page.wait_for_selector("a.md-search-result__link[href$='#loader.timeout_s']", state="attached")
        browser.close()
    assert troubles == []


# --- everything is there


def keys_of(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        value = node._get_node(key)
        if isinstance(value, DictConfig) and value:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_key_of_the_configuration_has_its_place(site: Path) -> None:
    there = set(Elements(site / "configuration.html").ids)
    settings = OmegaConf.structured(config.load(["dataset=digits"]).settings)
    keys = {key for key in keys_of(settings) if key.partition(".")[0] not in GROUPS}
    keys |= {*keys_of(OmegaConf.structured(SOURCES.load("checkpoint").Options), "model.")}
    keys |= {"model-huggingface.checkpoint", "model-huggingface.language"}
    for choice in group_choices("dataset"):
        keys |= {*keys_of(OmegaConf.structured(CONNECTORS.load(choice).Options), f"dataset-{choice}.")}
        assert f"dataset-{choice}" in there
    assert keys - there == set()
    assert {"score.by", "loader.timeout_s", "model.checkpoint", "dataset-manifest.columns.path"} <= keys


@dataclass
class Inner:
    """Some keys.

    Attributes:
        said: What the docstring says.
    """

    said: int | None = None
    unsaid: float = 2.5


@dataclass
class Outer:
    """A key, and more inside another."""

    own: list[str] = field(default_factory=lambda: ["a", "b"])
    inner: Inner = field(default_factory=Inner)


def test_a_key_that_nothing_is_said_of_is_refused_and_any_other_appears() -> None:
    reference = guide("configuration")
    setting = reference.Setting
    said = {"own": setting("own", "[a, b]", "a comment"), "inner.unsaid": setting("inner.unsaid", "2.5", "another")}
    assert reference._keys(Outer, said) == [
        reference.Key("own", "list", "[a, b]", "a comment"),
        reference.Key("inner.said", "whole number, or null", "null", "What the docstring says."),
        reference.Key("inner.unsaid", "number", "2.5", "another"),
    ]
    with pytest.raises(reference.UndescribedKey, match=r"inner\.unsaid: give it a comment"):
        reference._keys(Outer, {"own": said["own"]})


def test_every_default_on_the_page_is_the_one_that_is_taken() -> None:
    reference = guide("configuration")
    taken = OmegaConf.structured(config.load(["dataset=digits"]).settings)
    for key in reference.main_keys():
        assert OmegaConf.create(f"x: {key.default}").x == OmegaConf.select(taken, key.name), key


def test_every_number_says_its_bounds() -> None:
    for key in guide("configuration").main_keys():
        if isinstance(OmegaConf.create(f"x: {key.default}").x, int | float) and key.default not in ("true", "false"):
            assert re.search(r"\d", key.kind), key


def test_what_is_said_of_a_datasets_key_names_every_value_that_it_may_have() -> None:
    said = {
        key.name: key.said
        for choice in ("commonvoice", "manifest")
        for key in guide("configuration").dataset_keys(choice)
    }
    for key, values in (("split", SPLITS), ("format", FORMATS), ("delimiter", DELIMITERS)):
        assert {*values} <= {*re.findall(r"\w+", said[f"dataset.{key}"])}


BOUNDS = [
    ("batch.max_seconds", [1e-3, 1e6], [0, 1e6 + 1]),
    ("chunk.seconds", [16, 1e6], [0.5, 1e6 + 1]),
    ("chunk.context_seconds", [0, 15], [-1, 16]),
    ("shard.hours", [1e-3, 1e6], [0, 1e6 + 1]),
    ("loader.workers", [0, 99], [-1]),
    ("loader.timeout_s", [1e-3, 1e6], [0, 1e6 + 1]),
    ("max_failures", [0, 10**9], [-1]),
    ("report.utterances", [1, 20], [21]),
]


@pytest.mark.parametrize(("key", "let_in", "refused"), BOUNDS, ids=[key for key, *_ in BOUNDS])
def test_the_bounds_that_are_said_are_those_that_hold(
    key: str, let_in: list[float], refused: list[float], elsewhere: Path
) -> None:
    assert key in RULES
    for value in let_in:
        config.load(["dataset=digits", f"{key}={value}"])
    for value in refused:
        with pytest.raises(UserError):
            config.load(["dataset=digits", f"{key}={value}"])


def test_every_command_has_its_page(site: Path) -> None:
    commands = guide("commands")
    assert {"run", "status", "verify", "models"} <= {*commands.names()}
    assert {*commands.names()} <= {*Elements(site / "commands.html").ids}
    listed = re.findall(r"^\| `python -m pipeline\.(\w+)`", (DOCS / "commands.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(commands.names())
    for name in commands.names():
        assert commands.page(name).startswith("usage: python -m pipeline"), name


def test_every_name_of_a_failure_has_its_section() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    section = page.partition("## Failures by name")[2].partition("\n## ")[0]
    assert re.findall(r"^### `(\w+)`$", section, re.MULTILINE) == [*get_args(ErrorName)]


def test_every_error_that_is_explained_is_one_that_is_said() -> None:
    headings = re.findall(r"^## (.*)$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    phrases = [phrase for heading in headings for phrase in re.findall(r"`([^`]+)`", heading)]
    assert len(phrases) > 8
    code = "\n".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py")) + os.strerror(errno.ENOSPC)
    code = re.sub(r"\"\s*\n\s*f?\"", "", code)  # of literals that go on in the next line
    for phrase in phrases:
        for part in phrase.split("..."):
            assert part.strip("; ") in code, phrase


def test_every_public_name_of_the_results_has_its_place(site: Path) -> None:
    from pipeline import results

    there = set(Elements(site / "api.html").ids)
    assert {*results.__all__, "Run.transcripts", "Run.feature", "Run.words", "Run.scores"} <= there


@pytest.mark.parametrize(
    ("page", "schema"),
    [
        ("tables.md", pa.schema([*tables.MANIFEST_FIELDS])),
        ("tables.md", pa.schema([*tables.TRANSCRIPT_FIELDS, tables.NBEST, *tables.AUDIO_FIELDS, *tables.WORD])),
        ("tables.md", tables.emissions_schema("float32")),
        ("tables.md", tables.features_schema("float16")),
        ("tables.md", tables.FAILURES),
        ("scores.md", SCORES),
        ("scores.md", CONFUSIONS),
        ("alignment.md", pa.schema([*tables.ALIGNMENTS, *tables.WORD, ("llr", pa.float32())])),
        ("compare.md", comparison_schema([])),
        ("compare.md", COMPARED_GROUPS),
        ("compare.md", WORDS),
        ("compare.md", LOGPROBS),
        ("voices.md", pa.schema([(name, pa.string()) for name in CONNECTORS.load("voices")._COLUMNS])),
    ],
)
def test_every_column_is_named(page: str, schema: pa.Schema) -> None:
    named = set(re.findall(r"`(\w+)`", (DOCS / page).read_text()))
    assert {*schema.names} - named == set()


# --- what it shows works


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page in a language; without one, of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for of, block in fenced if of == language]


SHOWN = [
    (page, words)
    for page in READ
    for block in blocks_of(page)
    if block.not_run and block.language in ("", "sh")
    for line in block.code.replace("\\\n", " ").splitlines()
    if re.match(r"(python|make|pip) ", line) and "..." not in line
    for words in [shlex.split(line, comments=True)]
]
"""Commands of blocks that do not run, in words; test_blocks.py runs all others."""


def stub(overrides: list[str], data: Path) -> list[str]:
    """The same overrides with paths below `data` instead of /data, and there what they name."""
    named: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("/data/"):
            value = str(data / value.removeprefix("/data/"))
        named[key] = value
    for key in ("dataset.root", "dataset.audio_root"):
        if key in named:
            Path(named[key]).mkdir(parents=True, exist_ok=True)
    if "dataset.split" in named:
        (Path(named["dataset.root"]) / f"{named['dataset.split']}.tsv").write_text("path\tsentence\n")
    if "dataset.metadata" in named:
        Path(named["dataset.metadata"]).write_text("")
    if "dataset.path" in named:
        path = Path(named["dataset.path"])
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        (path if path.suffix else path / "wav.scp").write_text("")
    if "decoder.lm" in named:
        Path(named["decoder.lm"]).write_text("")
    if named.get("model") == "checkpoint":
        Path(named["model.checkpoint"]).write_bytes(b"PK")
        Path(named["model.labels"]).write_text("| 9\na 8\n")
    if named.get("model") == "huggingface" and named["model.checkpoint"] != "digits":
        named["model.checkpoint"] = str(described(data / "checkpoint", named.get("model.language")))
    return [f"{key}={value}" for key, value in named.items()]


def test_the_pages_show_commands_that_do_not_run() -> None:
    assert len(SHOWN) > 15
    assert {page.name for page, _ in SHOWN} >= {"README.md", "corpus.md", "slurm.md", "your-model.md"}


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page.stem}: {' '.join(words)}" for page, words in SHOWN])
def test_a_command_that_is_shown_is_one_that_there_is(
    page: Path, words: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = elsewhere / "data"
    store = MemoryStore()  # in the place of a real one, which takes half a minute where there is no network
    store.pipe_file("my-bucket/calls/a.wav", b"")
    store.pipe_file("my-bucket/shards/0.tar", b"")
    monkeypatch.setattr(remote_files, "filesystem", lambda _: store)
    match words:
        case ["make", target, *_]:
            assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", *what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert "-c" in what or what[-1] in {
                re.split(r"\W*[<>=]", each)[0] for some in extras.values() for each in some
            }
            assert {*re.findall(r"\[(\w+)\]", " ".join(what))} <= {*extras}
        case ["python", "-m", "pipeline.run", *arguments]:
            (data / "calls").mkdir(parents=True)
            command = commandline.parse(arguments)
            load = config.load_sweep if command.multirun else config.load
            load(stub([*command.overrides], data), command.own)
        case ["python", "-m", "pytest", path, *_]:
            assert (ROOT / path).exists()
        case ["python", "-m", module, *arguments]:
            assert importlib.util.find_spec(module)
            help_page = guide("commands").page(module.removeprefix("pipeline."))
            for option in (word for word in arguments if word.startswith("--")):
                assert option in help_page
        case ["python", "-c", script]:
            compile(script, str(page), "exec")
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case _:
            pytest.fail(f"{words}: nothing knows this command")


# --- links, as they work on a forge


def links_of(page: Path) -> list[tuple[str, str]]:
    """File and anchor of every relative link of a page, outside code."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", text)
    return [(target, anchor) for target, anchor in links if ":" not in target]


def anchors_of(page: Path) -> set[str]:
    """The anchors that forges give headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in links_of(page):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and path.name not in GENERATED:
            assert anchor in anchors_of(path), f"{target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert {page.name for page in PAGES} <= {*listed}


# --- pictures


def test_the_picture_of_the_terminal_shows_without_a_network() -> None:
    picture = (DOCS / "terminal.svg").read_text(encoding="utf-8")
    assert len(picture) < 200_000
    assert not re.search(r"(?:href|src)=\"|url\(\s*[\"']?(?!#)[a-z]|@import|<script", picture)
    assert "x real time" in picture.replace("&#160;", " ")
