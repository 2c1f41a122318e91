"""The page of a study in a browser: two participants, a reload in the middle, keys, back."""

import time

import pytest
from browser import Browser
from loopback import serving, wait_for
from study_folder import SCENES, write_study

from zeronvs.evaluation.study import QUESTIONS, Study
from zeronvs.evaluation.study_answers import Answer, Answers, read_answers
from zeronvs.web.study_page import make_study_app

TOTAL = len(SCENES) * len(QUESTIONS)
READY = "study && position >= 0 && ready && !busy && performance.now() - since > SETTLE_MS"


@pytest.fixture
def study(tmp_path) -> Study:
    return write_study(tmp_path / "study", size_px=128)


@pytest.fixture
def address(study: Study):
    with serving(make_study_app(study, Answers(study), host="127.0.0.1")) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    """Return the page as a new participant has opened it."""
    browser.new_visitor()
    visit(browser, address)
    return browser


def visit(page: Browser, address: str, width_px: int = 390, height_px: int = 844) -> None:
    page.visit(address + "/", width_px=width_px, height_px=height_px, touch=width_px < 500)
    page.wait_for("typeof study === 'object' && study")


def start(page: Browser) -> None:
    page.click("#start")
    page.wait_for(READY)


def press(page: Browser, key: str) -> None:
    page.wait_for(READY)
    page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def red_video(page: Browser) -> int:
    """Return which video shows the first method, which is red."""
    page.wait_for(READY)
    red = page.evaluate(
        "videos().map((v) => { const c = new OffscreenCanvas(8, 8).getContext('2d'); "
        "c.drawImage(v, 0, 0, 8, 8); const p = c.getImageData(4, 6, 1, 1).data; "
        "return p[0] > p[2] + 80 })"
    )
    assert sorted(red) == [False, True]
    return 1 + red.index(True)


def position(page: Browser) -> int:
    return page.evaluate("position")


def kept(study: Study) -> list[Answer]:
    return read_answers(Answers(study).path, study)


def test_two_participants_prefer_what_they_see(page: Browser, address: str, study: Study):
    assert page.evaluate("element('amount').textContent").startswith("You will see 3 pairs")
    # Anna prefers the red method and answers by touch; she reloads in the middle.
    start(page)
    first = page.tab
    for place in range(4):
        assert position(page) == place
        page.click(f"#choose{red_video(page)}")
        page.wait_for(f"position === {place + 1}")
    assert len(kept(study)) == 4
    visit(page, address)
    page.wait_for(READY)  # she is where she was, without the welcome
    assert position(page) == 4
    assert page.evaluate("element('where').textContent") == "Pair 2 of 3, question 2 of 3"

    # Ben, at a larger window with keys, prefers the blue one.
    page.new_visitor()
    visit(page, address, 1280, 800)
    start(page)
    for place in range(TOTAL):
        is_one = red_video(page) == 2
        press(
            page, ("1" if is_one else "2") if place % 2 else "ArrowLeft" if is_one else "ArrowRight"
        )
        page.wait_for(f"position === {place + 1}")
    assert page.evaluate("element('saved').textContent") == f"All {TOTAL} answers are saved."

    page.show_tab(first)
    for place in range(4, TOTAL):
        page.click(f"#choose{red_video(page)}")
        page.wait_for(f"position === {place + 1}")
    page.wait_for("!element('thanks').hidden")
    answers = kept(study)
    by_person = {
        a.participant: [b for b in answers if b.participant == a.participant] for a in answers
    }
    chosen = sorted([{a.chosen for a in own} for own in by_person.values()], key=min)
    assert chosen == [{0}, {1}]
    assert [len(own) for own in by_person.values()] == [TOTAL, TOTAL]
    assert page.complaints == []


def test_back_shows_the_answer_and_a_new_one_replaces_it(page: Browser, study: Study):
    start(page)
    assert page.evaluate("element('back').disabled")
    press(page, "1")
    press(page, "2")
    page.wait_for("position === 2")
    press(page, "Backspace")
    page.click("#back")
    page.wait_for("position === 0")
    pressed = "[1, 2].map((k) => element(`choose${k}`).getAttribute('aria-pressed'))"
    assert page.evaluate(pressed) == ["true", "false"]
    press(page, "2")
    page.wait_for("position === 2")  # on to the first question that is open
    press(page, "Backspace")
    press(page, "Backspace")
    assert page.evaluate(pressed) == ["false", "true"]
    found = kept(study)
    assert len(found) == 2
    assert {answer.chosen == answer.first for answer in found} == {False}


def test_two_taps_at_once_answer_one_question(page: Browser, study: Study):
    start(page)
    page.evaluate("(() => { for (let k = 0; k < 5; k++) element('choose1').click() })()")
    page.wait_for("position === 1")
    page.evaluate("element('choose1').click()")  # at once, before anyone has read the question
    time.sleep(0.2)
    assert position(page) == 1
    assert len(kept(study)) == 1


def test_an_answer_that_is_not_saved_is_said_and_not_lost(browser: Browser, study: Study):
    browser.new_visitor()
    with serving(make_study_app(study, Answers(study), host="127.0.0.1")) as address:
        visit(browser, address)
        start(browser)
    browser.click("#choose1")
    browser.wait_for("!element('error').hidden")
    assert "not saved" in browser.evaluate("element('error').textContent")
    assert position(browser) == 0
    assert not browser.evaluate("element('choose1').disabled")


def test_videos_run_in_step_and_pause_together(page: Browser):
    start(page)
    page.wait_for("videos().every((v) => v.currentTime > 0 && !v.paused)")
    apart = page.evaluate("Math.abs(element('video1').currentTime - element('video2').currentTime)")
    assert apart < 0.2
    lasted = page.evaluate("performance.now()")
    page.wait_for(f"performance.now() - {lasted} > 1200")  # twice as long as they are
    page.wait_for("videos().every((v) => !v.ended && !v.paused)")
    page.click("#video1")
    page.wait_for("videos().every((v) => v.paused)")
    press(page, "p")
    page.wait_for("videos().every((v) => !v.paused)")


@pytest.mark.parametrize(("width", "height"), [(360, 640), (390, 844), (740, 360), (1600, 900)])
def test_the_page_fits_its_window(page: Browser, address: str, width: int, height: int):
    visit(page, address, width, height)
    start(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    boxes = page.evaluate(
        "['video1', 'video2', 'choose1', 'choose2', 'back'].map((name) => { const r = "
        "element(name).getBoundingClientRect(); return [r.width, r.height] })"
    )
    for box_width, box_height in boxes:
        assert box_height >= 44
        assert box_width >= 44
    stacked = page.evaluate(
        "element('video2').getBoundingClientRect().top >= "
        "element('video1').getBoundingClientRect().bottom"
    )
    assert stacked == (width < height)


def test_the_same_device_serves_someone_else(page: Browser, study: Study, address: str):
    start(page)
    for place in range(TOTAL):
        press(page, "1")
        page.wait_for(f"position === {place + 1}")
    page.click("#another")
    page.wait_for("typeof study === 'object' && study && !element('welcome').hidden")
    start(page)
    press(page, "2")
    page.wait_for("position === 1")
    wait_for(lambda: len(kept(study)) == TOTAL + 1)
