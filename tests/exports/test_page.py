"""The page of a scene: what it holds without a browser, and what a browser shows of it."""

import base64
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser

from zeronvs._core.errors import HealthError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.exports.page import pack_splats, write_page
from zeronvs.scene.rasterizer import LOW_PASS_PX2, RasterConfig, rasterize
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.scene.surface_splats import surface_splats
from zeronvs.splats import GaussianSplats

COLUMN_BYTES = (3,) * 3 + (2,) * 3 + (1,) * 8
"""Bytes of position, scale, rotation, colour and opacity, as in page.js."""


def unpack_splats(packed: bytes, numbers: dict) -> GaussianSplats:
    """Return the splats that `pack_splats` wrote, as page.js reads them."""
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(-1, numbers["count"])
    columns, row = [], 0
    for size in COLUMN_BYTES:
        folded = sum(planes[row + byte].astype(np.int64) << (8 * byte) for byte in range(size))
        step = np.where(folded & 1, -((folded + 1) >> 1), folded >> 1)
        half = 1 << (8 * size - 1)
        whole = np.cumsum(step)
        columns.append((whole + half) % (2 * half) - half if size == 3 else whole % (2 * half))
        row += size
    table = torch.from_numpy(np.stack(columns, axis=1)).double()
    turns = torch.nn.functional.normalize((table[:, 6:10] - 128) / 127, dim=-1)
    return GaussianSplats(
        means=(numbers["fine"] * torch.sinh(table[:, :3] * numbers["position_step"])).float(),
        scales=(numbers["scale_low"] + numbers["scale_step"] * table[:, 3:6]).exp().float(),
        rotations=turns.float(),
        opacities=table[:, 13].float() / 255,
        colors=table[:, 10:13].float() / 255,
    )


def random_splats(count: int, distances: tuple[float, float] = (0.2, 1000.0)) -> GaussianSplats:
    noise = torch.Generator().manual_seed(3)
    low, high = (math.log(distance) for distance in distances)
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=noise), dim=-1)
    distance = (low + (high - low) * torch.rand(count, 1, generator=noise)).exp()
    return GaussianSplats(
        means=distance * away,
        scales=distance * (0.002 + 0.02 * torch.rand(count, 3, generator=noise)),
        rotations=torch.randn(count, 4, generator=noise),
        opacities=0.05 + 0.95 * torch.rand(count, generator=noise),
        colors=torch.rand(count, 3, generator=noise),
    )


def balls() -> GaussianSplats:
    """Return a scene that no mirror and no turn maps to itself, with discs and a far wall."""
    rows = [  # position, scales, colour
        ((0.30, 0.00, 0.00), (0.08, 0.08, 0.08), (0.9, 0.1, 0.1)),
        ((0.00, 0.35, 0.00), (0.16, 0.04, 0.01), (0.1, 0.9, 0.1)),
        ((0.00, 0.00, 0.25), (0.02, 0.05, 0.10), (0.1, 0.1, 0.9)),
        ((0.00, -0.3, 0.05), (0.03, 0.03, 0.12), (0.9, 0.9, 0.1)),
        ((-90.0, 30.0, -60.0), (20.0, 30.0, 8.0), (0.1, 0.8, 0.8)),
    ]
    position, scales, colors = (torch.tensor(part) for part in zip(*rows, strict=True))
    turns = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.2, 0.3, -0.1], [0.8, -0.3, 0.4, 0.2]])
    turns = turns[[0, 1, 2, 1, 2]]
    many = random_splats(300, (0.1, 0.4))
    known = GaussianSplats(position, scales, turns, torch.full((5,), 0.95), colors)
    return GaussianSplats.cat([known, many])


def camera_at(azimuth_rad: float, elevation_rad: float, size_px=(128, 128)) -> Camera:
    pose = orbit_pose(torch.tensor(azimuth_rad), torch.tensor(elevation_rad), torch.tensor(1.0))
    return Camera.from_fov(pose, 0.9, size_px)


def write(path: Path, *, camera: Camera | None = None, title: str = "A cup", **more) -> Path:
    camera = camera_at(0.4, 0.5) if camera is None else camera
    options = {"path_name": "orbit", "title": title, "poster": torch.full((3, 40, 40), 0.7)}
    write_page(path, SplatScene(balls()), camera=camera, **options | more)
    return path


# ---- without a browser


def test_packed_splats_are_the_same_within_a_step_of_their_numbers():
    splats = random_splats(3000)
    found = unpack_splats(*pack_splats(splats))
    torch.testing.assert_close(found.colors, splats.colors, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(found.opacities, splats.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(found.scales, splats.scales, atol=0, rtol=0.01)
    turns = torch.nn.functional.normalize(splats.rotations, dim=-1)
    aligned = (turns * found.rotations).sum(-1).abs().clamp(max=1)
    assert math.degrees(2 * float(aligned.min().arccos())) < 1.0


def test_packed_positions_are_precise_near_and_far():
    splats = random_splats(5000)
    error = (unpack_splats(*pack_splats(splats)).means - splats.means).norm(dim=-1)
    # Seen from the photographer, one unit from the origin, everything is 0.2 units away or more: a
    # hundredth of a percent of that is a tenth of a pixel of a large screen.
    assert float((error / splats.means.norm(dim=-1).clamp(min=0.1)).max()) < 1e-5
    assert float(error[splats.means.norm(dim=-1) < 1.5].max()) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 2047, 2049])
def test_few_splats_and_odd_numbers_of_them_are_packed(count: int):
    splats = random_splats(count, (0.5, 0.6))
    found = unpack_splats(*pack_splats(splats))
    torch.testing.assert_close(found.means, splats.means, atol=1e-5, rtol=0)


def test_a_splat_takes_few_bytes():
    # Neighbouring pixels of a smooth image: what a lifted photograph is made of.
    side = 100
    v, u = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    image = torch.stack([u.sin() ** 2, v.cos() ** 2, (u * v) ** 2], dim=-1).reshape(-1, 3)
    means = torch.stack([u, v, 0.2 * u * v], dim=-1).reshape(-1, 3)
    turns = torch.tensor([1.0, 0, 0, 0]).expand(side**2, 4)
    scales = torch.full((side**2, 3), 0.01)
    splats = GaussianSplats(means, scales, turns, torch.full((side**2,), 0.99), image)
    packed, _ = pack_splats(splats)
    assert len(packed) / side**2 < 10


def test_the_page_needs_no_network_and_holds_the_scene(tmp_path: Path):
    text = write(tmp_path / "scene.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bsrc=(?!\"data:)|\bimport\b|\bfetch\(|XMLHttp|@font", text)
    assert "default-src 'none'" in text
    assert "{{" not in text
    config = json.loads(re.search(r'id="config">(.*?)</script>', text)[1])
    packed = base64.b64decode(re.search(r'id="splats">(.*?)</script>', text)[1])
    found = unpack_splats(packed, config)
    torch.testing.assert_close(found.means, balls().means, atol=1e-3, rtol=1e-5, check_stride=False)
    assert "made with zeronvs" in text
    assert [path.name for path in tmp_path.iterdir()] == ["scene.html"]


HOSTILE = '</script><img src=x onerror="alert(1)">\'"<!--&{{splats}}{{no}}\\1'


def test_a_hostile_title_is_only_text(tmp_path: Path):
    text = write(tmp_path / "scene.html", title=HOSTILE).read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert "<title>&lt;/script&gt;&lt;img" in text


def test_a_scene_without_a_visible_splat_leaves_the_old_page(tmp_path: Path):
    path = tmp_path / "scene.html"
    path.write_text("before", encoding="utf-8")
    splats = balls()
    faint = GaussianSplats(
        splats.means, splats.scales, splats.rotations, 0 * splats.opacities, splats.colors
    )
    options = {"camera": camera_at(0.0, 0.0), "poster": torch.ones(3, 8, 8), "title": "t"}
    with pytest.raises(HealthError, match="No splat"):
        write_page(path, SplatScene(faint), path_name="orbit", **options)
    assert path.read_text(encoding="utf-8") == "before"


# ---- in a browser


def expected(camera: Camera, enlarged: float = 1.0) -> torch.Tensor:
    splats = balls()
    splats.means.requires_grad_()  # the plain rasterizer, not its compiled twin
    config = RasterConfig(low_pass_px2=LOW_PASS_PX2 * enlarged**2)
    rgb, _, _ = rasterize(splats, camera, torch.full((3,), 0.7), config)
    return rgb[0].detach()


def psnr_db(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (image - truth).square().mean().log10())


def settled(browser: Browser) -> torch.Tensor:
    browser.wait_for("!scheduled && !sorting && renderer.idle()")
    return browser.pixels(bare=True)


@pytest.mark.parametrize("path_name", ["orbit", "around"])
def test_the_page_shows_what_the_rasterizer_draws(browser, tmp_path: Path, path_name: str):
    for azimuth_rad, elevation_rad in ((0.4, 0.5), (-2.0, 0.2)):
        camera = camera_at(azimuth_rad, elevation_rad)
        page = write(tmp_path / "scene.html", camera=camera, path_name=path_name)
        browser.open(page, width_px=128, height_px=128)
        image, truth = settled(browser), expected(camera)
        assert psnr_db(image, truth) > 38
        assert psnr_db(image.flip(-1), truth) < 25
        assert psnr_db(image.flip(-2), truth) < 25
        assert browser.complaints == []


@pytest.mark.parametrize("size_px", [(128, 192), (192, 128)])
def test_a_window_of_another_shape_cuts_a_little_and_shows_a_little_more(
    browser, tmp_path: Path, size_px: tuple[int, int]
):
    """Between the whole photograph and a window full of it."""
    height_px, width_px = size_px
    browser.open(write(tmp_path / "scene.html"), width_px=width_px, height_px=height_px)
    over_height = (width_px / height_px) ** 0.3  # of the square photograph, over the window's
    fov_y_rad = 2 * math.atan(math.tan(0.45) / over_height)
    camera = Camera.from_fov(camera_at(0.4, 0.5).camera_to_world, fov_y_rad, size_px)
    truth = expected(camera, enlarged=max(1.0, over_height * height_px / 128))
    assert psnr_db(settled(browser), truth) > 38


def test_a_wall_of_pixels_is_no_grid_of_dots_in_a_larger_window(browser, tmp_path: Path):
    camera = camera_at(0.0, 0.0, (60, 60))
    wall = View(torch.full((3, 60, 60), 0.2), camera, torch.full((60, 60), 1.0))
    splats = surface_splats(wall, torch.ones(60, 60, dtype=torch.bool), 0.35)
    page, white = tmp_path / "scene.html", torch.ones(3, 40, 40)  # which shows through gaps
    write_page(
        page, SplatScene(splats), camera=camera, poster=white, path_name="around", title="A wall"
    )
    browser.open(page, width_px=240, height_px=240)
    middle = settled(browser)[:, 60:180, 60:180]
    assert float(middle.std()) < 0.01
    assert float((middle - 0.2).abs().amax()) < 0.04


WITHOUT = {
    "workers": "delete window.Worker",
    "workers that start": "window.Worker = class { constructor() { setTimeout(() => "
    "this.onerror(new Event('error'))) } postMessage() {} }",
    "decompression": "delete window.DecompressionStream; delete window.Worker",
}


@pytest.mark.parametrize("missing", WITHOUT)
def test_the_page_works_without(browser, tmp_path: Path, missing: str):
    page = write(tmp_path / "scene.html")
    browser.open(page, width_px=128, height_px=128, before=WITHOUT[missing])
    assert psnr_db(settled(browser), expected(camera_at(0.4, 0.5))) > 38
    assert browser.complaints == []


def test_without_webgl_the_page_says_so_and_keeps_the_photograph(browser, tmp_path: Path):
    before = "HTMLCanvasElement.prototype.getContext = () => null"
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128, before=before)
    assert "WebGL 2" in browser.evaluate("document.getElementById('note').textContent")
    assert browser.evaluate("getComputedStyle(document.getElementById('cover')).opacity") == "1"
    assert browser.evaluate("document.getElementById('poster').naturalWidth") == 40


def test_damaged_data_is_named(browser, tmp_path: Path):
    page = write(tmp_path / "scene.html")
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r'(id="splats">.{400})[^<]*', r"\1", text), encoding="utf-8")
    browser.open(page, width_px=128, height_px=128)
    assert "Copy the file again" in browser.evaluate("document.getElementById('note').textContent")


def test_a_hostile_title_is_shown_as_it_is(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html", title=HOSTILE), width_px=128, height_px=128)
    assert browser.evaluate("document.title") == HOSTILE
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.evaluate("document.images.length") == 2
    assert browser.complaints == []


def test_dragging_moves_around_and_r_returns(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128)
    start = settled(browser)
    browser.drag((40, 64), (70, 64))
    moved = settled(browser)
    azimuth_rad = browser.evaluate("shown[AZIMUTH]")
    assert 0.4 - azimuth_rad == pytest.approx(0.9 * math.pi * 30 / 128, abs=1e-4)
    assert psnr_db(moved, expected(camera_at(azimuth_rad, 0.5))) > 38  # to the left of the start
    browser.key("KeyR")
    assert psnr_db(settled(browser), start) > 60
    assert browser.complaints == []


def test_looking_around_keeps_the_point_under_the_finger(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html", path_name="around"), width_px=128, height_px=128)
    browser.drag((64, 64), (84, 74))
    settled(browser)
    # What was in the middle is now about 20 pixels to the right and 10 below.
    ahead = -camera_at(0.4, 0.5).camera_to_world[:3, 2]
    axes = torch.tensor(browser.evaluate("cameraAt(shown, [0, 0]).axes"))
    x, y, z = axes @ ahead
    focal_px = 64 / math.tan(0.45)
    assert float(focal_px * x / -z) == pytest.approx(20, abs=2)
    assert float(focal_px * y / -z) == pytest.approx(-10, abs=2)


@pytest.mark.parametrize("path_name", ["orbit", "around"])
def test_limits_give_way_a_little_and_pull_back(browser, tmp_path: Path, path_name: str):
    page = write(tmp_path / "scene.html", path_name=path_name)
    browser.open(page, width_px=128, height_px=128)
    browser.evaluate("for (let k = 0; k < 60; k++) { turn(0, 40); pan(-40, 0); approach(0.3) }")
    elevation, shift = browser.evaluate("[goal[ELEVATION], Math.hypot(...goal.slice(SHIFT))]")
    limit = math.radians(85 if path_name == "orbit" else 60)
    assert limit < abs(elevation) < limit + 0.25
    assert 0.3 < shift < 0.43
    browser.evaluate("wake()")
    settled(browser)
    state = browser.evaluate("shown")
    assert abs(state[1]) == pytest.approx(limit, abs=1e-3)
    assert math.hypot(*state[3:]) == pytest.approx(0.3, abs=1e-3)
    assert math.exp(state[2]) == pytest.approx(0.6 if path_name == "orbit" else 1.0, abs=1e-3)


def test_nothing_is_drawn_at_rest(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128)
    settled(browser)
    browser.evaluate(
        "{ const draw = renderer.draw; window.draws = 0; "
        "renderer.draw = (...all) => { window.draws++; draw(...all) } }"
    )
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert browser.evaluate("draws") == 0
    browser.mouse("mouseWheel", 64, 64, deltaX=0, deltaY=-60)
    settled(browser)
    assert browser.evaluate("draws") > 1


def test_a_lost_graphics_context_comes_back(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128)
    start = settled(browser)
    browser.evaluate("window.lose = gl.getExtension('WEBGL_lose_context'); lose.loseContext()")
    browser.wait_for("renderer === null")
    browser.evaluate("lose.restoreContext()")
    browser.wait_for("renderer !== null")
    assert psnr_db(settled(browser), start) > 60


def fingers(browser: Browser, kind: str, *places: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)]
    browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)


def test_two_fingers_come_nearer_and_two_taps_return(browser, tmp_path: Path):
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128)
    start = settled(browser)
    browser.resize(128, 128, touch=True)
    fingers(browser, "touchStart", (50, 64), (78, 64))
    for step in range(1, 6):
        fingers(browser, "touchMove", (50 - step, 64), (78 + step, 64))
    fingers(browser, "touchEnd")
    settled(browser)
    distance, shift = browser.evaluate("[Math.exp(shown[DISTANCE]), shown.slice(SHIFT)]")
    assert distance == pytest.approx(28 / 38, rel=0.02)
    assert math.hypot(*shift) < 0.01
    for _ in range(2):
        fingers(browser, "touchStart", (60, 60))
        fingers(browser, "touchEnd")
    assert psnr_db(settled(browser), start) > 60
    browser.resize(128, 128)


def test_the_scene_sways_until_the_first_touch(browser, tmp_path: Path):
    moving = [{"name": "prefers-reduced-motion", "value": "no-preference"}]
    browser.call("Emulation.setEmulatedMedia", features=moving)
    browser.open(write(tmp_path / "scene.html"), width_px=128, height_px=128)
    start = expected(camera_at(0.4, 0.5))
    browser.wait_for("Math.abs(swayAt(performance.now())[0]) > 0.035")
    assert psnr_db(browser.pixels(bare=True), start) < 36
    browser.drag((64, 64), (64, 64))
    assert psnr_db(settled(browser), start) > 38
    browser.call("Emulation.setEmulatedMedia", features=[])
