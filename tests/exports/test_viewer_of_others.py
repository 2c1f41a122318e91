"""A viewer of others draws our files as we do: Spark, of npm, in a headless Chromium."""

import functools
import http.server
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from axis_world import CENTRES, COLORS
from browser import Browser
from foreign_programs import install

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import world_axes
from zeronvs.cameras.poses import orbit_pose
from zeronvs.exports.export import export
from zeronvs.exports.splat_files import FileConfig
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

VIEWER = ("three@0.187.0", "@sparkjsdev/spark@2.2.0")
WIDTH_PX, HEIGHT_PX, FOV_Y_RAD = 160, 112, 0.7
CAMERA = Camera.from_fov(
    orbit_pose(torch.tensor(0.6), torch.tensor(0.5), torch.tensor(1.9)),
    FOV_Y_RAD,
    (HEIGHT_PX, WIDTH_PX),
)
PAGE = """<!doctype html><style>body { margin: 0 } canvas { display: block }</style>
<link rel="icon" href="data:,">
<script type="importmap">{"imports": {
  "three": "/node_modules/three/build/three.module.js",
  "three/addons/": "/node_modules/three/examples/jsm/",
  "spark": "/node_modules/@sparkjsdev/spark/dist/spark.module.js"}}</script>
<script type="module">
import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "spark";
const renderer = new THREE.WebGLRenderer();
renderer.setSize(innerWidth, innerHeight);
document.body.append(renderer.domElement);
window.show = async (url, fov, pose) => {
  const scene = new THREE.Scene();
  scene.add(new SparkRenderer({ renderer }));
  const splats = new SplatMesh({ url });
  await splats.initialized;
  scene.add(splats);
  const camera = new THREE.PerspectiveCamera(fov, innerWidth / innerHeight, 0.01, 100);
  new THREE.Matrix4().set(...pose).decompose(camera.position, camera.quaternion, camera.scale);
  // Splats are sorted in a worker, for the frames that follow.
  for (let frame = 0; frame < 12; frame++) {
    renderer.render(scene, camera);
    await new Promise(done => setTimeout(done, 100));
  }
  return splats.numSplats;
};
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve a folder with the viewer, and a page that shows one file.

    It takes the browser so that nothing is installed where there is none.
    """
    folder = tmp_path_factory.mktemp("viewer")
    install(folder, VIEWER)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def tilted_balls() -> SplatScene:
    """Return a ball of tilted ellipsoids on each axis, each of its own colour."""
    count, generator = 150, torch.Generator().manual_seed(5)
    direction = torch.nn.functional.normalize(torch.randn(3 * count, 3, generator=generator), dim=1)
    turn = torch.tensor([0.8, 0.3, -0.5, 0.2]).repeat(3 * count, 1)
    return SplatScene(
        GaussianSplats(
            means=CENTRES.repeat_interleave(count, 0) + 0.1 * direction,
            scales=torch.tensor([0.06, 0.02, 0.01]).repeat(3 * count, 1),
            rotations=turn,
            opacities=torch.full((3 * count,), 0.8),
            colors=COLORS.repeat_interleave(count, 0),
        )
    )


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (image - truth).square().mean().log10())


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("ply", {}),
        ("ply", {"up": "y-up"}),
        ("compressed-ply", {}),
        ("splat", {}),
        ("spz", {}),
    ],
)
def test_spark_draws_the_scene_where_we_do(
    kind: str, config: dict, site: tuple[Path, str], browser: Browser
):
    folder, address = site
    scene = tilted_balls()
    path = export(scene, CAMERA.batched(), [kind], folder, config=FileConfig(**config))[0]
    truth = scene.render(CAMERA, background=torch.zeros(3)).rgb.reshape(3, HEIGHT_PX, WIDTH_PX)
    pose = CAMERA.camera_to_world.clone()
    pose[:3] = world_axes(config.get("up", "y-down")) @ pose[:3]
    browser.visit(address, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    browser.wait_for("window.show")
    words = (f"/{path.relative_to(folder)}", math.degrees(FOV_Y_RAD), pose.flatten().tolist())
    drawn = browser.evaluate(f"show(...{json.dumps(words)})")
    assert drawn == len(scene.splats)
    image = browser.pixels()
    assert psnr(image, truth) > 33
    for other in (truth.flip(-1), truth.flip(-2), truth.flip(0)):
        assert psnr(other, truth) < 22
