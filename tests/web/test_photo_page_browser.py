"""The photo page in a browser: the whole way of a photograph, beside a second visitor."""

import math
import shutil
from pathlib import Path

import pytest
from browser import Browser
from conftest import LIMITS


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    """Return the page as a new visitor has opened it."""
    browser.new_visitor()
    browser.visit(address + "/", width_px=1000, height_px=800)
    browser.wait_for("limits !== null")
    return browser


def text(page: Browser, name: str) -> str:
    return page.evaluate(f"element('{name}').hidden ? '' : element('{name}').innerText")


def is_shown(name: str) -> str:
    return f"element('{name}').offsetParent !== null"


def copy(photo_file: Path, folder: Path, name: str) -> Path:
    return Path(shutil.copy(photo_file, folder / name))


HOSTILE = "<img src=x onerror=alert(1)>&amp;.png"


def test_the_way_of_a_photograph_beside_a_second_visitor(page, address, photo_file, tmp_path):
    page.choose_file("#choose", copy(photo_file, tmp_path, HOSTILE))
    page.wait_for(is_shown("start"), 120)
    assert text(page, "title") == HOSTILE.removesuffix(".png")
    assert "\u00b1" in text(page, "sliders")
    # A slider moves the horizon where the camera's geometry has it.
    page.wait_for("element('photo').naturalWidth === 96 && drawn.depth")
    page.evaluate(
        "(() => { const e = element('elevation_deg'); e.value = 12; "
        "e.dispatchEvent(new Event('input')); const f = element('fov_deg'); f.value = 60; "
        "f.dispatchEvent(new Event('input')) })()"
    )
    rows = page.evaluate(
        "(() => { const c = element('overlay'), p = c.getContext('2d').getImageData(4, 0, 1, "
        "c.height).data; return [...Array(c.height).keys()].filter((k) => p[4 * k] > 240 && "
        "p[4 * k + 1] < 80 && p[4 * k + 2] < 40 && p[4 * k + 3] > 240)"
        ".map((k) => k / c.height) })()"
    )
    row = 0.5 - 0.5 / math.tan(math.radians(30)) * math.tan(math.radians(12))
    assert rows
    assert sum(rows) / len(rows) == pytest.approx(row, abs=0.005)

    page.click("#start")
    page.wait_for("element('preview').style.backgroundImage", 10)  # the promised preview
    first = page.tab
    page.new_visitor()
    page.visit(address + "/", width_px=1000, height_px=800)
    page.wait_for("limits !== null")
    assert page.evaluate("jobs.length") == 0
    job_id = page.evaluate("fetch('jobs').then((r) => r.json()).then((a) => a.jobs.length)")
    assert job_id == 0

    page.show_tab(first)
    page.wait_for(is_shown("look"), 180)
    settings = page.evaluate("chosen().settings")
    assert (settings["fov_deg"], settings["elevation_deg"]) == (60, 12)
    assert settings["scene_scale"] is None
    size = "fetch(element('download').href).then((r) => r.blob()).then((b) => b.size)"
    assert page.evaluate(size) > 50_000
    assert page.complaints == []
    page.click("#look")
    page.wait_for("document.documentElement?.dataset.state === 'ready'")
    assert page.evaluate("document.querySelector('h1').textContent") == HOSTILE[:-4]
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert page.complaints == []


def test_cancelling_leaves_the_photograph_and_its_settings(page: Browser, photo_file: Path):
    page.choose_file("#choose", photo_file)
    page.wait_for(is_shown("start"), 120)
    assert text(page, "title") == "red square"
    page.evaluate("element('start').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter")
    page.wait_for(is_shown("cancel"))
    page.click("#cancel")
    page.wait_for("chosen().state === 'cancelled'")
    page.wait_for(is_shown("start"))
    assert text(page, "state").startswith("Cancelled.")
    assert page.complaints == []


def test_what_cannot_be_used_is_said_plainly(page: Browser, photo_file: Path, tmp_path: Path):
    (tmp_path / "large.png").write_bytes(bytes(LIMITS.upload_bytes + 1))
    page.choose_file("#choose", tmp_path / "large.png")
    page.wait_for("!element('error').hidden")
    assert "large.png has 0 MB; at most 0 MB" in text(page, "error")  # limits of this test
    (tmp_path / "page.png").write_text("<script>alert(1)</script>", encoding="utf-8")
    page.choose_file("#choose", tmp_path / "page.png")
    page.wait_for("element('error').textContent.startsWith('This is no photograph')")
    (tmp_path / "torn.png").write_bytes(photo_file.read_bytes()[:-40])
    page.choose_file("#choose", tmp_path / "torn.png")
    page.wait_for("chosen() && chosen().state === 'failed'", 120)
    assert text(page, "state").startswith("It did not work: photo is damaged or cut short")
    assert not page.evaluate(is_shown("start"))
    assert all("415" in complaint for complaint in page.complaints)


def test_the_page_fits_a_phone_and_a_large_window(page: Browser, photo_file: Path):
    page.choose_file("#choose", photo_file)
    page.wait_for(is_shown("start"), 120)
    for width, height in ((360, 740), (1600, 900)):
        page.resize(width, height, touch=width < 500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tall = page.evaluate(
            "[...document.querySelectorAll('button.primary, .button')].filter((e) => "
            "e.offsetParent).every((e) => e.getBoundingClientRect().height >= 44)"
        )
        assert tall
    page.evaluate("location.hash = ''")
    page.resize(360, 740, touch=True)
    page.wait_for(is_shown("camera-label"))
    page.resize(1000, 800)
