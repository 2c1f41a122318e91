"""Looking around in a finished run: what is served of it, paths, videos; and in a browser."""

import json
import math
import shutil
from pathlib import Path

import av
import pytest
import torch
from browser import Browser
from loopback import Client, serving, wait_for

from zeronvs.cameras.trajectories import TRAJECTORIES, make_trajectory
from zeronvs.formats.camera_path import write_camera_path
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.recipes.run_folder import open_run
from zeronvs.web.look import FRAMES, write_look_page
from zeronvs.web.look_routes import MAX_FRAMES, Place, look_router
from zeronvs.web.server import make_app
from zeronvs.web.task_queue import TaskQueue
from zeronvs.web.work import Worker


@pytest.fixture(scope="module")
def place(finished_run: Path, tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("look")
    shutil.copytree(finished_run, folder / "run")
    (folder / "secret.mp4").write_text("secret", encoding="utf-8")
    write_look_page(open_run(folder / "run"), folder / "look.html")
    return Place(folder / "run", folder / "look.html")


@pytest.fixture(scope="module")
def client(place: Place):
    with TaskQueue(Worker, limit_s=120.0) as queue:
        app = make_app([look_router("", lambda: place, queue)], host="127.0.0.1")
        with serving(app) as address:
            yield Client(address)


def path_json(place: Place, tmp_path: Path, name: str = "dolly-zoom-in") -> dict:
    camera = open_run(place.run_dir).input_camera.with_longer_side(64)
    write_camera_path(tmp_path / "p.json", make_trajectory(name, camera, 5))
    return json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))


# ---- without a browser


def test_a_written_camera_path_is_read_back(place: Place, tmp_path: Path):
    camera = open_run(place.run_dir).input_camera
    cameras = make_trajectory("dolly-zoom-in", camera, 4)  # its field of view changes
    write_camera_path(tmp_path / "path.json", cameras)
    found = read_camera_path(tmp_path / "path.json")
    assert found.image_size_px == cameras.image_size_px
    torch.testing.assert_close(found.camera_to_world, cameras.camera_to_world)
    torch.testing.assert_close(found.intrinsics_px, cameras.intrinsics_px, rtol=1e-5, atol=1e-4)


def test_the_page_asks_its_own_server_only_and_runs_its_own_scripts_only(client: Client):
    answer = client("GET", "/")
    text = answer.content.decode()
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_the_paths_of_the_page_are_those_that_are_rendered(client: Client, place: Place):
    text = client("GET", "/").content.decode()
    data = json.loads(text.split('id="panel-data">')[1].split("</script>")[0])
    assert next(iter(data["paths"])) == "orbit"
    assert sorted(data["paths"]) == sorted(TRAJECTORIES)
    camera = open_run(place.run_dir).input_camera
    for name in ("spiral", "zoom-in"):
        cameras = make_trajectory(name, camera, FRAMES)
        rows = torch.tensor(data["paths"][name])
        expected = cameras.camera_to_world[:, :3].flatten(1)
        torch.testing.assert_close(rows[:, :12], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(rows[:, 12], cameras.fov_y_rad, atol=1e-4, rtol=0)
    assert len(data["views"]) == 4


def test_views_are_served_by_their_number(client: Client, place: Place):
    assert client("GET", "/views/2.png").content == (place.run_dir / "views/002.png").read_bytes()
    for missing in ("/views/4.png", "/views/-1.png", "/views/1e3.png", "/views/..%2f000.png"):
        assert client("GET", missing).status in (404, 422)


@pytest.mark.parametrize("motion", ["zoom-in", "move-left"])
def test_a_saved_path_is_rendered_as_it_was_given(client, place: Place, tmp_path: Path, motion):
    content = path_json(place, tmp_path, motion)
    name = client("POST", "/paths", content).json["name"]
    assert name in client("GET", "/paths").json["paths"]
    kept = client("GET", f"/paths/{name}.json").json["camera_path"]
    for found, given in zip(kept, content["camera_path"], strict=True):
        assert found["camera_to_world"] == given["camera_to_world"]
        assert found["fov"] == pytest.approx(given["fov"])
    assert client("GET", f"/renders/{name}").json == {"state": "none"}
    assert client("POST", f"/renders/{name}").status == 202
    wait_for(lambda: client("GET", f"/renders/{name}").json["state"] not in ("waiting", "running"))
    assert client("GET", f"/renders/{name}").json["state"] == "done"
    (tmp_path / "v.mp4").write_bytes(client("GET", f"/renders/{name}.mp4").content)
    with av.open(str(tmp_path / "v.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5
    run = open_run(place.run_dir)
    cameras = read_camera_path(place.run_dir / "paths" / f"{name}.json", image_size_px=(48, 64))
    truth = run.scene.render(cameras, background=torch.full((3,), 0.5)).rgb
    found = torch.stack([torch.tensor(frame) for frame in frames]).permute(0, 3, 1, 2) / 255
    assert float((found - truth).abs().mean()) < 0.02
    assert float((found.flip(0) - truth).abs().mean()) > 0.02


def test_the_second_path_has_the_next_name(client: Client, place: Place, tmp_path: Path):
    first, second = (
        client("POST", "/paths", path_json(place, tmp_path)).json["name"] for _ in range(2)
    )
    assert int(second[-3:]) == int(first[-3:]) + 1


def test_what_is_no_path_is_refused_and_leaves_nothing(client: Client, place: Place, tmp_path):
    before = client("GET", "/paths").json
    good = path_json(place, tmp_path)["camera_path"]
    sheared = json.loads(json.dumps(good))
    sheared[1]["camera_to_world"][0] = 3.0
    wide = [{**frame, "fov": 180} for frame in good]
    bad = [[], {}, {"camera_path": 3}, {"camera_path": good[:1]}, {"camera_path": sheared}]
    bad += [{"camera_path": wide}, {"camera_path": ["x", "y"]}]
    bad += [{"camera_path": good * MAX_FRAMES}]
    size = {"render_height": 48, "render_width": 64}
    bad = [content | size if isinstance(content, dict) else content for content in bad]
    bad += [{"camera_path": good}, {"camera_path": good, **size, "render_width": "64"}]
    for content in bad:
        answer = client("POST", "/paths", content)
        assert answer.status == 422, content
        assert answer.json["error"]
    assert client("GET", "/paths").json == before


NAMES = (
    "path_999",
    "../../secret",
    "..%2f..%2fsecret",
    "%2e%2e/secret",
    "orbit%00",
    "PATH_001",
    "",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_of_the_known_ones_or_unknown(client: Client, name: str):
    for method, address in [
        ("GET", f"/renders/{name}.mp4"),
        ("GET", f"/renders/{name}"),
        ("POST", f"/renders/{name}"),
        ("GET", f"/paths/{name}.json"),
    ]:
        answer = client(method, address)
        assert answer.status == 404, (method, address)
        assert b"secret" not in answer.content


def test_links_that_lead_out_of_the_run_are_not_followed(finished_run: Path, tmp_path: Path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished_run, run)
    outside.mkdir()
    (outside / "private.png").write_bytes(b"private")
    (run / "views" / "000.png").unlink()
    (run / "views" / "000.png").symlink_to(outside / "private.png")
    (run / "paths").symlink_to(outside)
    (run / "renders").symlink_to(outside)
    (tmp_path / "look.html").touch()
    place = Place(run, tmp_path / "look.html")
    queue = TaskQueue(Worker, limit_s=1.0)
    with serving(make_app([look_router("", lambda: place, queue)], host="")) as address:
        client = Client(address)
        assert client("GET", "/views/0.png").status == 404
        assert "link to another place" in client("POST", "/renders/orbit").json["error"]
        answer = client("POST", "/paths", path_json(Place(finished_run, run), tmp_path))
        assert "link to another place" in answer.json["error"]
    assert [path.name for path in outside.iterdir()] == ["private.png"]


# ---- in a browser


@pytest.fixture
def page(browser: Browser, client: Client) -> Browser:
    browser.visit(client.address + "/", width_px=640, height_px=480)
    browser.wait_for("document.documentElement.dataset.state === 'ready'")
    browser.click("#panel-button")
    return browser


def settled(browser: Browser) -> torch.Tensor:
    """Return the scene without the panel, once it is drawn."""
    browser.wait_for("!scheduled && !sorting && renderer.idle()")
    browser.evaluate(
        "document.head.insertAdjacentHTML('beforeend', "
        "'<style>#panel, #panel-button { visibility: hidden }</style>')"
    )
    image = browser.pixels(bare=True)
    browser.evaluate("document.head.querySelectorAll('style').forEach((s, k) => k && s.remove())")
    return image


def choose(browser: Browser, selector: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = '{value}'; "
        "e.dispatchEvent(new Event('change')) })()"
    )


def test_a_played_path_shows_what_its_video_shows(page: Browser, place: Place):
    # The same camera for what is shown and for what is rendered: frame 20 of the spiral.
    page.evaluate(
        "const r = JSON.parse(element('panel-data').textContent).paths.spiral[20]; "
        "direct({ axes: [0, 1, 2].map((k) => [r[k], r[4 + k], r[8 + k]]), "
        "eye: [r[3], r[7], r[11]], fov_y_rad: r[12] })"
    )
    shown = settled(page)
    run = open_run(place.run_dir)
    camera = make_trajectory("spiral", run.input_camera, FRAMES)[[20]].resized(480, 640)
    background = torch.tensor(page.evaluate("config.background"))
    truth = run.scene.render(camera, background=background).rgb[0]
    assert float((shown - truth).abs().mean()) < 0.02
    choose(page, "#paths", "spiral")
    page.click("#play")
    page.wait_for("directed !== null")
    eyes = page.evaluate(
        "new Promise((done) => { const eyes = []; const look = () => { "
        "eyes.push(current = directed.eye); eyes.length < 8 ? requestAnimationFrame(look) "
        ": done(eyes) }; var current; look() })"
    )
    cameras = make_trajectory("spiral", run.input_camera, FRAMES).position
    away = torch.cdist(torch.tensor(eyes), cameras).amin(dim=1)
    assert len({tuple(eye) for eye in eyes}) > 2
    assert float(away.max()) < 0.02
    page.drag((100, 200), (120, 200))
    page.wait_for("directed === null")
    assert page.evaluate("element('play').textContent") == "Play"
    assert page.complaints == []


def test_a_chosen_view_is_stood_at_and_left_without_a_jump(page: Browser, place: Place):
    page.click("#views button:nth-child(2)")
    page.wait_for("element('compare-image').naturalWidth === 64")
    camera = open_run(place.run_dir).input_camera
    pose = read_camera_path(place.run_dir / "cameras" / "transforms.json").camera_to_world[1]
    torch.testing.assert_close(
        torch.tensor(page.evaluate("directed.eye")), pose[:3, 3], atol=1e-4, rtol=0
    )
    page.mouse("mousePressed", 200, 200, button="left", buttons=1, clickCount=1)
    eye = torch.tensor(page.evaluate("cameraAt(shown, [0, 0]).eye"))
    page.mouse("mouseReleased", 200, 200, button="left", clickCount=1)
    assert page.evaluate("directed") is None
    torch.testing.assert_close(eye, pose[:3, 3], atol=1e-3, rtol=0)
    page.key("KeyR")
    page.wait_for("goal.every((value, k) => Math.abs(value - shown[k]) < 1e-4)")
    eye = torch.tensor(page.evaluate("cameraAt(shown, [0, 0]).eye"))
    torch.testing.assert_close(eye, camera.position, atol=1e-3, rtol=0)


def test_depth_and_cameras_can_be_shown(page: Browser):
    before = settled(page)
    page.click("#show-depth")
    depth = settled(page)
    # Everything is about one unit away: one colour, between the middle one and yellow.
    middle = depth[:, 200:280, 280:360].mean(dim=(1, 2))
    share = 2 * (1 - math.log(1 / 0.4) / math.log(15)) - 1
    low, high = torch.tensor([0.13, 0.57, 0.55]), torch.tensor([0.99, 0.91, 0.14])
    torch.testing.assert_close(middle, low + share * (high - low), atol=0.06, rtol=0)
    page.click("#show-depth")
    assert float((settled(page) - before).abs().max()) < 0.02
    drawn = (
        "element('frusta').getContext('2d').getImageData(0, 0, innerWidth, innerHeight)"
        ".data.some((value) => value > 0)"
    )
    assert not page.evaluate(drawn)
    page.click("#show-cameras")
    assert page.evaluate(drawn)
    assert [c for c in page.complaints if "willReadFrequently" not in c] == []


def test_quality_decides_how_many_pixels_are_drawn(page: Browser):
    for detail, width in (("fast", 320), ("fine", 640), ("auto", 640)):
        choose(page, "#detail", detail)
        page.wait_for(f"canvas.width === {width}")


def test_a_recorded_path_is_saved_and_rendered(page: Browser, client: Client, place: Place):
    before = client("GET", "/paths").json["paths"]
    settled(page)
    start = torch.tensor(page.evaluate("cameraAt(shown, [0, 0]).eye"))
    page.click("#record")
    page.drag((100, 200), (160, 220))
    page.wait_for("goal.every((value, k) => Math.abs(value - shown[k]) < 1e-4)")
    end = torch.tensor(page.evaluate("cameraAt(shown, [0, 0]).eye"))
    page.click("#record")
    assert "Recorded" in page.evaluate("element('record-note').textContent")
    page.click("#save")
    page.wait_for("element('record-note').textContent.startsWith('Saved')")
    (name,) = set(client("GET", "/paths").json["paths"]) - set(before)
    cameras = read_camera_path(place.run_dir / "paths" / f"{name}.json")
    torch.testing.assert_close(cameras.position[0], start, atol=2e-2, rtol=0)
    torch.testing.assert_close(cameras.position[-1], end, atol=2e-2, rtol=0)
    assert float((start - end).norm()) > 0.2
    page.click("#render")
    page.wait_for("!element('video').hidden && element('video').duration > 0", 120)
    assert page.evaluate("element('video').duration") == pytest.approx(len(cameras) / 24, abs=0.06)
    assert page.complaints == []


def test_the_panel_is_used_with_the_keyboard(page: Browser):
    assert page.evaluate("element('panel').hidden") is False
    page.evaluate("element('detail').focus()")
    azimuth = page.evaluate("goal[AZIMUTH]")
    page.key("KeyA", 0.3)  # typed into the list, not a step aside
    assert page.evaluate("pressed.size === 0 && touched === null")
    assert page.evaluate("goal[AZIMUTH]") == azimuth
    page.key("Escape")
    assert page.evaluate("element('panel').hidden") is True
    assert page.evaluate("document.activeElement.id") == "panel-button"
    page.call("Input.dispatchKeyEvent", type="keyDown", code="KeyA")
    page.wait_for(f"goal[AZIMUTH] !== {azimuth}")
    page.call("Input.dispatchKeyEvent", type="keyUp", code="KeyA")


def test_on_a_phone_the_scene_stays_in_sight_beside_the_panel(page: Browser):
    page.resize(390, 844, touch=True)
    top = page.evaluate("element('panel').getBoundingClientRect().top")
    assert top > 0.4 * 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.resize(640, 480)
