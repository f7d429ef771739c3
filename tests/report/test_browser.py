"""A report in a real browser: it renders, plays, follows, and fetches and runs nothing from outside."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from report_fixtures import HOSTILE, hostile_run, page, voices_like_run

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Sandboxes of their own, as in containers, and machines without a large /dev/shm.
ARGUMENTS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
]  # fmt: skip
PATIENCE_MS = 60_000
WIDE, NARROW = (1280, 900), (360, 740)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"none of {', '.join(NAMES)} is installed, and the report is tested in one: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=ARGUMENTS, timeout=2 * PATIENCE_MS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = voices_like_run(tmp_path_factory.mktemp("voices"))
    page(out, utterances=2)
    return out


@dataclass
class Opened:
    """A page, and what the browser said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser: Browser, finished: Path) -> Iterator[Opened]:
    with_page = open_page(browser, finished)
    yield with_page
    with_page.page.context.close()


def open_page(browser: Browser, run_dir: Path, size: tuple[int, int] = WIDE, **options: Any) -> Opened:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(PATIENCE_MS)
    made = Opened(context.new_page())
    made.page.on("console", lambda message: made.said.append(f"{message.type}: {message.text}"))
    made.page.on("pageerror", lambda error: made.said.append(str(error)))
    made.page.on("request", lambda request: made.requests.append(request.url))
    made.page.goto((run_dir / "report" / "index.html").as_uri(), timeout=2 * PATIENCE_MS)
    return made


def first(opened: Opened) -> Locator:
    return opened.page.locator("#worst-1")


def open_all(opened: Opened) -> None:
    """Everything that a reader may open."""
    assert opened.page.locator("details[open]").count() > 2
    opened.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    opened.page.wait_for_timeout(200)


def current_time(utterance: Locator) -> float:
    return float(utterance.locator("audio").evaluate("audio => audio.currentTime"))


def ready(utterance: Locator) -> Locator:
    """The player, once it knows how long it is."""
    audio = utterance.locator("audio")
    audio.evaluate("a => a.readyState >= 1 || new Promise(done => a.addEventListener('loadedmetadata', done))")
    return audio


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_renders_without_errors_requests_or_scrolling_sideways(
    size: tuple[int, int], browser: Browser, finished: Path
) -> None:
    opened = open_page(browser, finished, size)
    table_of(opened).locator(".line button").first.click()
    open_all(opened)
    # As if each were as long as one can be: it scrolls by itself.
    stretched = "each => { each.style.setProperty('--seconds', '30'); return each.scrollWidth; }"
    assert all(stage.evaluate(stretched) > 1_400 for stage in opened.page.locator(".stage").all())
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    sticking_out = """() => [...document.querySelectorAll('main *')].filter(each =>
        !each.closest('.scroll, svg, .unseen, pre, .line') && each.getBoundingClientRect().right > innerWidth + 1)
        .map(each => each.className + ' ' + each.textContent.slice(0, 40))"""
    assert opened.page.evaluate(sticking_out) == []
    for picture in opened.page.locator("img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 1")
        assert picture.bounding_box()["width"] > 100  # type: ignore[index]
    assert opened.page.locator("figure svg").count() == 5
    assert opened.page.locator("figure svg text").first.is_visible()
    assert opened.said == []
    assert {*opened.requests} - {opened.page.url} == {url for url in opened.requests if url.startswith("data:")}
    opened.page.context.close()


def test_a_player_plays_and_the_word_that_is_spoken_is_marked(opened: Opened) -> None:
    utterance = first(opened)
    audio = ready(utterance)
    starts = utterance.locator("button.word").evaluate_all("words => words.map(word => Number(word.dataset.start))")
    audio.evaluate("audio => audio.play()")
    watched = utterance.evaluate(
        """async utterance => {
            const audio = utterance.querySelector("audio"), stage = utterance.querySelector(".stage");
            const seen = [];
            for (let frames = 0; !audio.ended && frames < 3000; frames++) {
                await new Promise(requestAnimationFrame);
                const word = utterance.querySelector(".word.now");
                seen.push([audio.currentTime, word ? Number(word.dataset.start) : null,
                           word ? Number(word.dataset.end) : null, Number(stage.style.getPropertyValue("--at"))]);
            }
            return seen;
        }"""
    )
    times = [each[0] for each in watched]
    assert times == sorted(times)
    assert times[-1] > 0.8 * float(audio.evaluate("audio => audio.duration"))
    slack = 0.25  # the clock runs on between the page's look and ours
    marked = [(time, start, end) for time, start, end, _ in watched if start is not None]
    assert all(start - slack <= time <= end + slack for time, start, end in marked)
    assert {start for _, start, _ in marked} <= {*starts}
    assert len({start for _, start, _ in marked}) > 1
    assert watched[-1][3] > 0.8
    assert opened.said == []


def test_a_click_on_a_word_or_a_picture_goes_there(opened: Opened) -> None:
    utterance = first(opened)
    ready(utterance)
    word = utterance.locator("button.word").last
    word.click()
    start = float(word.get_attribute("data-start") or "nan")
    assert current_time(utterance) == pytest.approx(start, abs=0.02)
    assert word.get_attribute("aria-current") == "true"
    assert utterance.locator(".word.now").count() == 1
    probability = word.get_attribute("data-probability")
    assert f"probability {probability}" in (utterance.locator(".now").first.text_content() or "")
    assert f"probability {probability}" in (word.get_attribute("title") or "")
    length = float(utterance.locator("audio").evaluate("audio => audio.duration"))
    for picture in (".emission", ".feature >> nth=0", ".wave", ".axis"):
        utterance.locator("audio").evaluate("audio => { audio.currentTime = 0; }")
        box = utterance.locator(picture).bounding_box()
        assert box is not None
        utterance.locator(picture).click(position={"x": box["width"] / 2, "y": box["height"] / 2})
        assert current_time(utterance) == pytest.approx(length / 2, abs=0.05)
    playhead, wave = utterance.locator(".playhead").bounding_box(), utterance.locator(".wave").bounding_box()
    assert playhead is not None
    assert wave is not None
    assert playhead["x"] == pytest.approx(wave["x"] + wave["width"] / 2, abs=4)


def test_the_keyboard_moves_in_time_and_from_word_to_word(opened: Opened) -> None:
    utterance = first(opened)
    audio = ready(utterance)
    wave = utterance.locator(".wave")
    wave.focus()
    wave.press("Home")
    wave.press("ArrowRight")
    assert current_time(utterance) == pytest.approx(0.25, abs=0.01)
    assert wave.get_attribute("aria-valuenow") == "0.25"
    wave.press(" ")
    assert not audio.evaluate("audio => audio.paused")
    wave.press(" ")
    assert audio.evaluate("audio => audio.paused")
    words = utterance.locator("button.word")
    words.first.focus()
    words.first.press("ArrowRight")
    assert words.nth(1).evaluate("word => word === document.activeElement")
    assert current_time(utterance) == pytest.approx(float(words.nth(1).get_attribute("data-start") or "nan"), abs=0.02)


def test_words_do_not_cover_one_another_and_stand_at_their_times(browser: Browser, finished: Path) -> None:
    opened = open_page(browser, finished, NARROW)
    open_all(opened)
    for utterance in opened.page.locator(".utterance").all():
        boxes = utterance.locator("button.word").evaluate_all(
            "words => words.map(word => [word.offsetLeft, word.offsetTop, word.offsetWidth, word.offsetHeight])"
        )
        for index, (left, top, width, height) in enumerate(boxes):
            for other_left, other_top, other_width, other_height in boxes[:index]:
                apart = other_left + other_width <= left or left + width <= other_left
                assert apart or other_top + other_height <= top or top + height <= other_top
    opened.page.context.close()


def table_of(opened: Opened) -> Locator:
    """The table of utterances, once it is unpacked."""
    opened.page.locator("#explorer .line").first.wait_for()
    return opened.page.locator("#explorer")


def column(table: Locator, key: str) -> list[str]:
    return table.locator(f".line .{key}").all_text_contents()


def test_the_table_is_sorted_searched_and_filtered(opened: Opened) -> None:
    table = table_of(opened)
    status = table.locator("[role=status]")
    assert status.text_content() == "47 utterances"
    assert table.locator(".line").count() < 47  # only those in sight, and some around them
    rates = [float(each) for each in column(table, "wer")]
    assert rates == sorted(rates, reverse=True)
    heading = table.get_by_role("columnheader", name="log-prob")
    heading.get_by_role("button").click()
    certain = [float(each) for each in column(table, "avg_logprob")]
    assert certain == sorted(certain)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert table.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 1
    table.get_by_role("searchbox").fill("rm2 MUSI")
    expect(status).to_have_text(re.compile(r"\d of 47 utterances"))
    found = column(table, "id")
    assert found
    assert all("rm2" in each and "musi" in each for each in found)
    table.get_by_role("button", name="Reset").click()
    assert status.text_content() == "47 utterances"
    table.get_by_label("room").select_option(label="rm1")
    expect(status).to_have_text(re.compile(r"\d of 47 utterances"))
    of_the_room = status.text_content() or ""
    table.get_by_label("WER from, %").fill("10")
    expect(status).not_to_have_text(of_the_room)  # the table follows what is typed a moment later
    assert all("rm1" in each for each in column(table, "id"))
    assert all(float(each) >= 10 for each in column(table, "wer"))
    table.get_by_role("searchbox").fill("no such utterance")
    expect(status).to_have_text("0 of 47 utterances")
    assert opened.said == []


def test_a_row_opens_by_keyboard_with_texts_words_and_a_link_and_can_be_copied(opened: Opened) -> None:
    table = table_of(opened)
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.keyboard.press("/")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowUp")
    opened.page.keyboard.press("Enter")
    row = table.locator(".line.opened")
    button = row.get_by_role("button")
    assert (row.get_attribute("aria-rowindex"), button.get_attribute("aria-expanded")) == ("2", "true")
    assert button.evaluate("button => button === document.activeElement")
    panel = table.locator(".panel")
    text = row.locator(".text").text_content() or ""
    words = panel.locator(".timed .word bdi").all_text_contents()
    assert words == text.split()
    assert re.fullmatch(r" \d+\.\d\d to \d+\.\d\d s, \d+ %", panel.locator(".timed small").first.text_content() or "")
    theirs = panel.locator(".pair:not(.head) > :last-child bdi").all_text_contents()
    assert theirs == words
    path = panel.locator(".path").text_content() or ""
    assert panel.get_by_role("link", name="Open the recording").get_attribute("href") == Path(path).as_uri()
    assert panel.get_by_role("link", name="Play it").get_attribute("href") == "#worst-1"
    for name, copied in (("Copy id", button.text_content()), ("Copy path", path), ("Copy text", text)):
        panel.get_by_role("button", name=name).click()
        assert opened.page.evaluate("navigator.clipboard.readText()") == copied
    opened.page.keyboard.press("Escape")
    assert table.locator(".panel").count() == 0
    opened.page.keyboard.press("End")
    last = table.locator(".line button:focus")
    assert last.evaluate("button => button.closest('tr').ariaRowIndex") == "48"
    last.press("Enter")
    assert table.locator(".panel").is_visible()
    assert opened.said == []


def test_a_screen_reader_finds_names_and_one_heading_of_each_level_above(opened: Opened) -> None:
    table_of(opened).locator(".line button").first.click()
    unnamed = """() => [...document.querySelectorAll("button, input, select, a, audio ~ *[role], [role=slider]")]
        .filter(each => each.checkVisibility() && !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
        .map(each => each.outerHTML.slice(0, 80))"""
    assert opened.page.evaluate(unnamed) == []
    levels = opened.page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map(each => Number(each.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len({*ids}) == len(ids)
    assert opened.page.locator("tbody tr:not([aria-hidden]) > :not(th, td)").count() == 0


def test_a_browser_that_cannot_unpack_the_table_says_so(browser: Browser, finished: Path) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page_ = context.new_page()
    page_.goto((finished / "report" / "index.html").as_uri())
    assert "This browser cannot unpack the table" in (page_.locator("#explorer [role=status]").text_content() or "")
    context.close()


def test_dark_and_light_follow_the_system_and_the_button(browser: Browser, finished: Path) -> None:
    opened = open_page(browser, finished, color_scheme="dark")

    def lightness(selector: str, name: str) -> float:
        colour = opened.page.locator(selector).first.evaluate(f"each => getComputedStyle(each)['{name}']")
        return sum(float(each) for each in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3

    assert lightness("body", "backgroundColor") < 60
    assert lightness("figure svg text", "fill") > 120
    button = opened.page.locator("#theme")
    assert button.text_content() == "◐ system"
    button.click()
    assert button.text_content() == "◐ light"
    assert lightness("body", "backgroundColor") > 200
    assert lightness("figure svg text", "fill") < 120
    button.click()
    assert lightness("body", "backgroundColor") < 60
    opened.page.emulate_media(media="print")
    button.evaluate("button => button.click()")
    assert lightness("body", "backgroundColor") > 200
    assert not opened.page.locator("nav").is_visible()
    table = table_of(opened)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert table.locator(".line").count() == 47
    assert not table.locator(".filters").is_visible()
    opened.page.context.close()


def test_hostile_text_shows_as_text_and_none_of_it_runs(browser: Browser, finished: Path, tmp_path: Path) -> None:
    changed = hostile_run(finished, tmp_path)
    page(changed, utterances=2)
    opened = open_page(browser, changed)
    open_all(opened)
    seen = HOSTILE.replace("\u202e", r"\u202e").replace("\x07", r"\x07")
    utterance = first(opened)
    assert seen in (utterance.locator("summary .id").text_content() or "")
    assert utterance.locator("button.word").first.text_content() == seen
    assert seen in (utterance.locator(".own").text_content() or "")
    pairs = utterance.locator(".pairs").text_content() or ""
    assert "owned" in pairs
    table = table_of(opened)
    assert seen in (table.locator(".line .id").first.text_content() or "")
    assert seen in (table.locator(".line .text").first.text_content() or "")
    table.locator(".line button").first.click()
    assert seen in (table.locator(".panel .own").text_content() or "")
    assert seen in (table.locator(".panel .timed").text_content() or "")
    assert seen in (opened.page.locator("#failures").text_content() or "")
    assert seen in (opened.page.locator("#scores").text_content() or "")
    ready(utterance)
    utterance.locator("button.word").first.click()
    assert seen in (utterance.locator(".now").first.text_content() or "")
    assert opened.page.evaluate("window.owned") is None
    assert opened.page.locator("script").count() == 1
    assert opened.page.locator("img:not([src^='data:image/png'])").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= WIDE[0]
    assert opened.said == []
    opened.page.context.close()


def test_the_policy_would_stop_a_script_and_a_request_that_got_in(opened: Opened) -> None:
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.owned = 1";
            document.body.append(script);
            const image = '<img src="http://127.0.0.1:9/x" onerror="window.owned = 2">';
            document.body.insertAdjacentHTML("beforeend", image);
        }"""
    )
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("window.owned") is None
    refused = [line for line in opened.said if "Content Security Policy" in line]
    assert any("script-src" in line for line in refused)
    assert any("img-src" in line for line in refused)
    assert len(opened.said) == len(refused)
