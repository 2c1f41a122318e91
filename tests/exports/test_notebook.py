"""A scene in a notebook: a frame with the page in it, of bounded size, apart from the notebook."""

import html
import re
from pathlib import Path

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.exports import page
from zeronvs.exports.page import ScenePage, show, write_page
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.scene.surface_splats import surface_splats


def red_wall() -> tuple[SplatScene, View]:
    """Return a wall of one colour, and its photograph, which has another."""
    pose = orbit_pose(torch.tensor(0.0), torch.tensor(0.2), torch.tensor(1.0))
    camera = Camera.from_fov(pose, 0.9, (48, 64))
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, 48, 64)
    keep = torch.ones(48, 64, dtype=torch.bool)
    splats = surface_splats(View(red.contiguous(), camera, torch.ones(48, 64)), keep, 0.5)
    return SplatScene(splats), View(torch.full((3, 48, 64), 0.5), camera)


def frame(shown: ScenePage) -> tuple[str, str]:
    """Return the attributes of the frame but its page, and the page."""
    found = re.fullmatch(r'<iframe (.*) srcdoc="([^"]*)"></iframe>', shown._repr_html_())
    assert found is not None
    return found[1], html.unescape(found[2])


def test_a_frame_holds_the_page_that_would_be_written(tmp_path: Path):
    scene, view = red_wall()
    write_page(
        tmp_path / "scene.html", scene, camera=view.camera, poster=view.image,
        path_name="around", title='a "wall"',
    )  # fmt: skip
    attributes, inside = frame(show(scene, view, path_name="around", title='a "wall"'))
    assert inside == (tmp_path / "scene.html").read_text(encoding="utf-8")
    assert 'sandbox="allow-scripts"' in attributes
    assert "allow-same-origin" not in attributes


def test_a_page_that_is_too_large_is_named_instead(monkeypatch):
    monkeypatch.setattr(page, "MAX_EMBEDDED_BYTES", 2**20)
    shown = ScenePage("x" * (2**20 + 1))._repr_html_()
    assert shown == "<p>A scene of 1 MiB: too large for a notebook.</p>"


def test_a_browser_draws_the_scene_in_a_sandboxed_frame(tmp_path: Path, browser):
    scene, view = red_wall()
    notebook = tmp_path / "notebook.html"
    notebook.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body>{show(scene, view)._repr_html_()}",
        encoding="utf-8",
    )
    browser.complaints.clear()
    browser.resize(640, 500)
    browser.call("Page.navigate", url=notebook.as_uri())
    browser.wait_for("document.querySelector('iframe') && document.readyState === 'complete'")
    assert browser.evaluate("document.querySelector('iframe').contentDocument") is None
    for _ in range(100):  # until the splats are drawn over the grey photograph
        middle = browser.pixels()[:, 250, 320]
        if float(middle[0] - middle[1]) > 0.5:
            break
    assert float(middle[0] - middle[1]) > 0.5
    assert browser.complaints == []
