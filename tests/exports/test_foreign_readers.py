"""What programs of others read from our files is the scene: rendered, and compared with ours."""

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
import trimesh
from axis_world import CENTRES, COLORS, cameras_around, centres_by_color
from foreign_programs import NodePrograms, install
from PIL import Image
from pxr import Usd, UsdGeom, UsdVol
from splat_ply_reader import read_splats

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import world_axes
from zeronvs.cameras.view import View
from zeronvs.datasets.sources.colmap import ColmapSource
from zeronvs.exports.export import export
from zeronvs.exports.splat_files import FileConfig
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

COUNT = 400
"""Splats of a ball: two chunks of compressed PLY and a part of one."""
CAMERAS = cameras_around(4, 48)
GREY = torch.full((3,), 0.5)


def tilted_scene() -> SplatScene:
    """Return a ball of tilted ellipsoids on each axis: no mirror, turn or swap keeps it."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(3 * COUNT, 3, generator=generator), dim=1)
    turn = torch.tensor([0.8, 0.3, -0.5, 0.2]) + 0.2 * torch.randn(
        3 * COUNT, 4, generator=generator
    )
    return SplatScene(
        GaussianSplats(
            means=CENTRES.repeat_interleave(COUNT, 0) + 0.1 * direction,
            scales=torch.tensor([0.06, 0.02, 0.008]).repeat(3 * COUNT, 1),
            rotations=turn,
            opacities=0.4 + 0.5 * torch.rand(3 * COUNT, generator=generator),
            colors=COLORS.repeat_interleave(COUNT, 0),
        )
    )


def images(splats: GaussianSplats) -> torch.Tensor:
    return SplatScene(splats).render(CAMERAS, background=GREY).rgb


def assert_same_images(splats: GaussianSplats, *, error: float) -> None:
    """Compare with the scene; what is mirrored, turned or of another shape is far off."""
    truth = images(tilted_scene().splats)
    assert float((images(splats) - truth).abs().mean()) < error
    assert float((truth.flip(-1) - truth).abs().mean()) > 10 * error
    round_ones = GaussianSplats(
        splats.means,
        splats.scales.mean(1, keepdim=True).expand(-1, 3).clone(),
        splats.rotations,
        splats.opacities,
        splats.colors,
    )
    assert float((images(round_ones) - truth).abs().mean()) > 3 * error


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodePrograms:
    return install(tmp_path_factory.mktemp("node"))


def written(folder: Path, kind: str, **config) -> Path:
    (path,) = export(tilted_scene(), CAMERAS, [kind], folder, config=FileConfig(**config))
    return path


@pytest.mark.parametrize(
    ("kind", "config", "error"),
    [
        ("ply", {}, 1e-3),
        ("compressed-ply", {}, 2e-3),
        ("splat", {}, 2e-3),
        ("spz", {}, 2e-3),
        ("spz", {"spz_version": 4}, 2e-3),
        ("sog", {}, 2e-3),
    ],
)
def test_splat_transform_reads_the_scene(
    kind: str,
    config: dict,
    error: float,
    tmp_path: Path,
    node: NodePrograms,
    monkeypatch: pytest.MonkeyPatch,
):
    # Where it is installed, our own export to SOG uses it, too.
    monkeypatch.setenv("PATH", node.path, os.pathsep)
    path = written(tmp_path, kind, **config)
    node.transform(path, tmp_path / "back.ply")
    splats = read_splats(tmp_path / "back.ply")
    assert len(splats) == 3 * COUNT
    assert_same_images(splats, error=error)


def test_spz_of_the_specification_has_y_up(tmp_path: Path, node: NodePrograms):
    path = written(tmp_path, "spz", spz_axes="rub")
    # splat-transform keeps the numbers, whatever they mean.
    node.transform(path, tmp_path / "back.ply")
    stored = read_splats(tmp_path / "back.ply", up="z")
    torch.testing.assert_close(
        centres_by_color(stored.means, stored.colors),
        CENTRES @ world_axes("y-up").T,
        atol=0.02,
        rtol=0,
    )
    assert_same_images(stored.moved(world_axes("y-up").T), error=2e-3)


@pytest.mark.parametrize("up", ["y-up", "z-up"])
@pytest.mark.parametrize("kind", ["ply", "splat", "spz", "compressed-ply"])
def test_splats_have_the_vertical_axis_that_is_wanted(
    kind: str, up: str, tmp_path: Path, node: NodePrograms
):
    path = written(tmp_path, kind, up=up)
    node.transform(path, tmp_path / "back.ply")
    stored = read_splats(tmp_path / "back.ply", up="z")
    assert_same_images(stored.moved(world_axes(up).T), error=2e-3)


def glb_arrays(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the tree of a .glb and what its first primitive's vertices have."""
    content = path.read_bytes()
    length = struct.unpack_from("<I", content, 12)[0]
    tree = json.loads(content[20 : 20 + length])
    body = content[28 + length :]
    arrays = {}
    for name, index in tree["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = tree["accessors"][index]
        kind = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
        offset = tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        flat = np.frombuffer(body, kind, accessor["count"] * width, offset)
        arrays[name.removeprefix("KHR_gaussian_splatting:")] = flat.reshape(-1, width)
    return tree, arrays


def glb_splats(arrays: dict[str, np.ndarray]) -> GaussianSplats:
    """Return the splats as the extension's text decodes them, in the file's world."""
    part = {name: torch.tensor(values.astype("f4")) for name, values in arrays.items()}
    return GaussianSplats(
        means=part["POSITION"],
        scales=part["SCALE"],
        rotations=part["ROTATION"].roll(1, dims=-1),
        opacities=part["OPACITY"][:, 0],
        colors=0.5 + 0.28209479 * part["SH_DEGREE_0_COEF_0"],
    )


def test_splats_in_gltf_are_those_of_splat_transform(tmp_path: Path, node: NodePrograms):
    ours, theirs = written(tmp_path, "splat-glb"), tmp_path / "theirs.glb"
    node.transform(written(tmp_path, "ply"), theirs)
    tree, arrays = glb_arrays(ours)
    assert_same_images(glb_splats(arrays).moved(world_axes("y-up").T), error=1e-3)
    their_tree, their_arrays = glb_arrays(theirs)
    # y is up in both; the two are turned about it by half a turn.
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    same = glb_splats(their_arrays).moved(half_turn)
    for name in ("means", "scales", "opacities", "colors", "covariances"):
        torch.testing.assert_close(
            getattr(glb_splats(arrays), name), getattr(same, name), atol=1e-4, rtol=1e-3
        )
    (primitive,), (their_primitive,) = (t["meshes"][0]["primitives"] for t in (tree, their_tree))
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension.items() <= their_primitive["extensions"]["KHR_gaussian_splatting"].items()
    assert primitive["mode"] == their_primitive["mode"] == 0
    # The validator does not know the extension's names of attributes, and finds nothing else.
    for issue in node.glb_issues(ours):
        assert issue["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE"
        assert "/KHR_gaussian_splatting:" in issue["pointer"]


def test_programs_without_the_extension_show_points_of_linear_colours(tmp_path: Path):
    (points,) = trimesh.load_scene(written(tmp_path, "splat-glb")).geometry.values()
    found = centres_by_color(
        torch.tensor(points.vertices).float(), torch.tensor(points.colors[:, :3]).float()
    )
    torch.testing.assert_close(found, CENTRES @ world_axes("y-up").T, atol=0.02, rtol=0)
    red = glb_arrays(tmp_path / "scene" / "scene.glb")[1]["COLOR_0"][0] / 65535
    expected = [((value + 0.055) / 1.055) ** 2.4 for value in COLORS[0].tolist()]
    assert red[:3].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_mesh_is_valid_gltf(tmp_path: Path, node: NodePrograms):
    assert node.glb_issues(written(tmp_path, "glb")) == []


def test_usd_reads_the_scene(tmp_path: Path):
    stage = Usd.Stage.Open(str(written(tmp_path, "usd")))
    assert UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.y
    prim = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())
    turns = prim.GetOrientationsAttr().Get()
    assert prim.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 0
    values = {
        name: torch.tensor(np.array(getattr(prim, f"Get{name}Attr")().Get()))
        for name in ("Positions", "Scales", "Opacities", "RadianceSphericalHarmonicsCoefficients")
    }
    splats = GaussianSplats(
        values["Positions"],
        values["Scales"],
        torch.tensor([[turn.real, *turn.imaginary] for turn in turns]),
        values["Opacities"],
        0.5 + 0.28209479 * values["RadianceSphericalHarmonicsCoefficients"],
    )
    assert_same_images(splats.moved(world_axes("y-up").T), error=1e-3)
    low, high = np.array(prim.GetExtentAttr().Get())
    assert (low < values["Positions"].numpy().min(0)).all()
    assert (high > values["Positions"].numpy().max(0)).all()


def test_the_point_cloud_has_each_ball_on_its_axis(tmp_path: Path):
    cloud = trimesh.load(written(tmp_path, "points", up="z-up"))
    points, colors = torch.tensor(cloud.vertices).float(), torch.tensor(cloud.colors).float()
    torch.testing.assert_close(centres_by_color(points, colors[:, :3]), CENTRES, atol=0.02, rtol=0)
    solid = tilted_scene().splats.opacities >= 0.5
    assert len(points) == int(solid.sum())


@pytest.mark.parametrize("kind", ["binary", "text"])
def test_pycolmap_sees_each_point_in_its_colour(kind: str, tmp_path: Path):
    model = written(tmp_path, "colmap")
    assert model == tmp_path / "colmap" / "sparse" / "0"
    for path in model.glob("*.txt" if kind == "binary" else "*.bin"):
        path.unlink()
    read = pycolmap.Reconstruction(model)
    assert len(read.images) == len(CAMERAS)
    seen = 0
    for image in read.images.values():
        pixels = np.asarray(Image.open(tmp_path / "colmap" / "images" / image.name)) / 255
        assert read.cameras[image.camera_id].height == len(pixels)
        for point in read.points3D.values():
            column, row = image.project_point(point.xyz)
            color = pixels[int(row), int(column)]
            seen += int(color.argmax() == point.color.argmax() and color.max() > 0.55)
    # In two of the four images a ball hides another.
    assert seen > 0.8 * len(read.points3D) * len(read.images)
    # The world is that of the PLY.
    points = torch.tensor(np.array([point.xyz for point in read.points3D.values()])).float()
    colors = torch.tensor(np.array([point.color for point in read.points3D.values()])).float()
    torch.testing.assert_close(
        centres_by_color(points, colors), CENTRES @ world_axes("y-down").T, atol=0.02, rtol=0
    )


def test_our_own_importer_reads_the_colmap_model_with_its_lenses(tmp_path: Path):
    lenses = CAMERAS.intrinsics_px.clone()
    lenses[1, 0, 2] += 3.0
    cameras = CAMERAS.with_intrinsics(lenses)
    export(tilted_scene(), cameras, ["colmap"], tmp_path)
    source = ColmapSource(tmp_path / "colmap")
    (name,) = source.scene_ids()
    turn = torch.eye(4)
    turn[:3, :3] = world_axes("y-down")
    for index, frame in enumerate(source.load(name).frames):
        found = frame.camera.resized(*cameras.image_size_px)
        torch.testing.assert_close(
            found.camera_to_world, turn @ cameras.camera_to_world[index], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(found.intrinsics_px, lenses[index], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["camera_path.json", "path.txt"])
def test_path_files_are_read_back_as_the_cameras(name: str, tmp_path: Path):
    path = Camera.from_fov(CAMERAS.camera_to_world[:3], 0.7, (30, 40))
    export(tilted_scene(), CAMERAS, ["path"], tmp_path, path=path)
    read = read_camera_path(tmp_path / "cameras" / name, image_size_px=(30, 40))
    torch.testing.assert_close(read.camera_to_world, path.camera_to_world, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(read.intrinsics_px, path.intrinsics_px, atol=1e-3, rtol=1e-5)


def test_a_centred_scene_agrees_with_its_cameras_in_every_file(tmp_path: Path):
    kinds = ["ply", "glb", "nerfstudio", "colmap", "path"]
    scene, config = tilted_scene(), FileConfig(center=True)
    photo = View(scene.render(CAMERAS[[0]]).rgb[0], CAMERAS[0])
    export(scene, CAMERAS, kinds, tmp_path, config=config, photo=photo)
    splats = read_splats(tmp_path / "scene" / "scene.ply")
    shift = (splats.means - scene.splats.means).median(0).values
    assert float(shift.norm()) > 0.1
    assert float(splats.means.median(0).values.norm()) < 0.2
    cameras = read_camera_path(tmp_path / "transforms.json")
    torch.testing.assert_close(cameras.position, CAMERAS.position + shift, atol=1e-4, rtol=0)
    seen = SplatScene(splats).render(cameras, background=GREY).rgb
    assert float((seen - images(scene.splats)).abs().mean()) < 0.02  # widened
    along = read_camera_path(tmp_path / "cameras" / "camera_path.json")
    torch.testing.assert_close(along.position, cameras.position, atol=1e-4, rtol=0)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    centres = [model.images[index + 1].projection_center() for index in range(len(CAMERAS))]
    there = torch.tensor(np.array(centres)).float() @ world_axes("y-down")
    torch.testing.assert_close(there, cameras.position, atol=1e-4, rtol=0)
    corners = trimesh.load_scene(tmp_path / "scene" / "mesh.glb").bounds.mean(0)
    middle = torch.tensor(corners).float() @ world_axes("y-up")
    box = torch.stack([splats.means.amin(0), splats.means.amax(0)]).mean(0)
    assert float((middle - box).norm()) < 0.1
    assert math.isfinite(float(middle.sum()))
