"""`zeronvs export` and `render` of a finished run: flags reach the files, bad ones are refused."""

import gzip
import json
import struct
import sys
from pathlib import Path

import av
import pytest
import torch
from splat_ply_reader import read_splats

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

COUNT = 40


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run folder whose scene is a red cloud, one unit before the camera."""
    points = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    cloud = GaussianSplats(
        points + torch.tensor([0.0, 0.1, 0.2]),
        torch.full((COUNT, 3), 0.05),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(COUNT, 1),
        torch.full((COUNT,), 0.9),
        torch.tensor([[0.9, 0.1, 0.1]]).repeat(COUNT, 1),
    )
    folder = tmp_path / "run"
    SplatScene(cloud).save(folder / "scene" / "scene.safetensors")
    pose = orbit_pose(torch.tensor(0.0), torch.tensor(0.2), torch.tensor(1.0))
    lens = {"fov_y_rad": 0.8, "height_px": 24, "width_px": 32}
    camera = Camera.from_fov(pose, 0.8, (24, 32)).camera_to_world.tolist()
    record = {"input_camera": {"camera_to_world": camera, **lens}, "orbit_distances": [1.0]}
    (folder / "run.json").write_text(json.dumps(record | {"size_px": 32}), encoding="utf-8")
    return folder


def test_flags_of_an_export_reach_its_files(run_dir: Path, zeronvs, tmp_path: Path, capsys):
    out = tmp_path / "out"
    words = ["--format", "ply", "spz", "path", "--up", "z-up", "--max-splats", 12, "--center"]
    assert zeronvs("export", run_dir, "-o", out, *words, "--spz-version", 4) == 0
    printed = capsys.readouterr().out.splitlines()
    files = ["scene/scene.ply", "scene/scene.spz", "cameras/camera_path.json"]
    assert [line for line in printed if line.startswith(str(out))] == [str(out / f) for f in files]
    splats = read_splats(out / files[0], up="z")
    assert 3 < len(splats) <= 12
    assert float(splats.means.median(0).values.norm()) < 0.1  # the cloud stood 0.2 above the origin
    magic, version, count = struct.unpack_from("<4sII", (out / files[1]).read_bytes())
    assert (magic, version, count) == (b"NGSP", 4, len(splats))
    path = json.loads((out / files[2]).read_text(encoding="utf-8"))["camera_path"]
    assert len(path) == 72


def test_an_export_of_spz_is_of_version_3_and_in_the_axes_that_are_named(
    run_dir: Path, zeronvs, tmp_path: Path
):
    heights = {}
    for axes in ("ply", "rub"):
        words = ["--format", "spz", "--spz-axes", axes]
        assert zeronvs("export", run_dir, "-o", tmp_path / axes, *words) == 0
        content = gzip.decompress((tmp_path / axes / "scene" / "scene.spz").read_bytes())
        _, version, count, _, fraction = struct.unpack_from("<4sIIBB", content)
        assert (version, count) == (3, COUNT)
        fixed = [content[k : k + 3] for k in range(16 + 3, 16 + 9 * COUNT, 9)]
        y = [int.from_bytes(part, "little", signed=True) / 2**fraction for part in fixed]
        heights[axes] = sum(y) / COUNT
    assert heights["rub"] > 0.1
    assert heights["ply"] == pytest.approx(-heights["rub"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--max-splats", 0], "--max-splats is 0; it must be at least 1"),
        (["--format", "sog"], "needs Node.js"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_one_line(
    words: list, line: str, run_dir: Path, zeronvs, capsys, monkeypatch: pytest.MonkeyPatch
):
    before = sorted(run_dir.rglob("*"))
    monkeypatch.setenv("PATH", str(run_dir))
    assert zeronvs("export", run_dir, *words) == 2
    assert line in capsys.readouterr().err
    assert sorted(run_dir.rglob("*")) == before


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    run_dir: Path, zeronvs, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pxr", None)  # as if it were not installed
    assert zeronvs("export", run_dir, "--format", "usd") != 0
    assert "pip install 'zeronvs[usd]'" in capsys.readouterr().err
    assert not (run_dir / "scene" / "scene.usdc").exists()


def test_a_render_is_of_the_kind_that_its_suffix_names(run_dir: Path, zeronvs, capsys):
    video = run_dir / "around.webm"
    assert zeronvs("render", run_dir, "--frames", 3, "-o", video) == 0
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name == "vp9"
    assert zeronvs("render", run_dir, "--frames", 3, "-o", run_dir / "around.avi") == 2
    assert "-o: around.avi should end in .mp4, .webm or .gif" in capsys.readouterr().err
