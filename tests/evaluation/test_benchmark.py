"""Scenes of single images measured by a protocol: scales, resuming, the regression numbers."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import torch
from benchmark_trees import DTU_DISTANCE, dtu_cameras, room, write_dtu_scan
from tiny_pipelines import FixedGeometry

from zeronvs._core.errors import InputError
from zeronvs.cameras.view import View
from zeronvs.evaluation.benchmark import (
    SCALES,
    BenchmarkConfig,
    SceneScores,
    Score,
    aligned_scale,
    centre_scale,
    evaluate_benchmark,
    search_best,
)
from zeronvs.evaluation.image_metrics import TSED, ImageMetrics
from zeronvs.evaluation.metrics import WARP
from zeronvs.evaluation.protocols.dtu import read_scan
from zeronvs.evaluation.protocols.protocol import load_protocol
from zeronvs.evaluation.views import COPY, OURS
from zeronvs.recipes.presets import LiftRecipe
from zeronvs.recipes.reconstruct import reconstruct
from zeronvs.scene.lift import LiftConfig

SIZE_PX = (72, 96)
PROTOCOL = dataclasses.replace(
    load_protocol("dtu"), image_size_px=SIZE_PX, scale_grid=(0.7, 0.9, 1.2)
)
CONFIG = BenchmarkConfig(limit=2)
UNIT = 1.5 * 2.02
SMALL = LiftRecipe(
    lift=LiftConfig(refine_depth=False, fill_side_px=48, surround_width_px=64, color_steps=1)
)


def true_depth(seed: int) -> torch.Tensor:
    return room(seed).render(dtu_cameras(49, SIZE_PX)[25]).depth_z


def estimator(seed: int) -> FixedGeometry:
    """Predict the true depth of a scan's input, up to a factor."""
    depth_z = true_depth(seed)
    relative = (depth_z / torch.quantile(depth_z, 0.2))[None]
    return FixedGeometry(lambda image: relative.expand(len(image), -1, -1))


def lifted(view: View, *, scene_scale: float, seed: int, run_dir: Path):
    return reconstruct(view, None, SMALL, scene_scale=scene_scale, seed=seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("DTU")
    for name in ("scan8", "scan21"):
        write_dtu_scan(folder / name, 1, size_px=SIZE_PX)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def result(root: Path, out: Path):
    config = dataclasses.replace(CONFIG, scenes=("scan8",))
    return run(root, out, config)


def run(root: Path, out: Path, config: BenchmarkConfig, make_scene=lifted):
    return evaluate_benchmark(
        "dtu", root, make_scene, estimator(1), ImageMetrics(), config, out=out, protocol=PROTOCOL
    )


def true_scale() -> float:
    """Return the g at which the scene is the room: its q over that of the true depth."""
    return float(torch.quantile(true_depth(1), 0.2)) / UNIT / 0.7


def test_every_way_to_the_scale_finds_the_true_one(result):
    (scores,) = result.scores
    ours = scores.scores[OURS]
    assert set(ours) == set(SCALES)
    expected = true_scale()
    assert ours["oracle"].scale == min(PROTOCOL.scale_grid, key=lambda g: abs(g - expected))
    assert ours["depth"].scale == pytest.approx(expected, rel=0.03)
    assert ours["published"].scale == 1.2
    # What lies in the centre of the image is taken to be what the cameras look at.
    centre = true_depth(1)[24:48, 32:64].median()
    looked_at = expected * DTU_DISTANCE / float(centre)
    assert ours["estimated"].scale == pytest.approx(looked_at, rel=0.02)
    # The better the scale, the better the scene; the known depth beats the grid.
    assert ours["depth"].metrics["PSNR"] > ours["published"].metrics["PSNR"] + 1
    assert ours["depth"].metrics["PSNR"] > ours["oracle"].metrics["PSNR"] - 0.5
    assert ours["oracle"].metrics["PSNR"] > scores.scores[COPY]["oracle"].metrics["PSNR"] + 1


def test_baselines_are_measured_by_the_same_protocol(result):
    (scores,) = result.scores
    assert set(scores.scores) == {OURS, WARP, COPY}
    assert scores.views == 2
    copy, warp = scores.scores[COPY], scores.scores[WARP]
    assert len({score.metrics["SSIM"] for score in copy.values()}) == 1  # it sees no camera
    assert warp["depth"].metrics["PSNR"] > copy["depth"].metrics["PSNR"] + 1
    assert TSED in scores.scores[OURS]["depth"].metrics
    assert result.metrics == ("PSNR", "SSIM", TSED)
    assert result.missing == tuple(name for name in PROTOCOL.scenes if name != "scan8")
    assert result.sheets["scan8"].is_file()


def test_a_second_run_takes_the_scenes_that_are_done_and_makes_the_others(
    result, root: Path, out: Path
):
    made = []

    def counting(view, **settings):
        made.append(settings["seed"])
        return lifted(view, **settings)

    again = run(root, out, CONFIG, counting)
    assert again.scenes == ["scan8", "scan21"]
    assert made == [0]  # scan8 was there
    assert again.scores[0] == result.scores[0]
    each = [item.scores[OURS]["depth"].metrics["PSNR"] for item in again.scores]
    assert again.values(OURS, "depth", "PSNR") == [pytest.approx(sum(each) / 2)]
    path = out / "dtu/scan21/seed0/scores.json"
    content = json.loads(path.read_text())
    del content["scores"][OURS]["oracle"]["scale"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"scores\.json is damaged"):
        run(root, out, CONFIG)


def test_scenes_that_are_not_there_are_refused(root: Path, tmp_path: Path):
    for names, says in (
        (("scan9",), "DTU has: scan8, scan21"),
        (("scan30",), "has no folder scan30"),
    ):
        with pytest.raises(InputError, match=says):
            run(root, tmp_path, dataclasses.replace(CONFIG, scenes=names))
    (tmp_path / "scan1").mkdir()
    (tmp_path / "scan1" / "cameras.npz").touch()
    with pytest.raises(InputError, match="none of the 15 scenes of DTU, such as scan8"):
        run(tmp_path, tmp_path / "out", CONFIG)


def test_a_mean_is_over_the_scenes_of_each_seed(result):
    def scored(scene: str, seed: int, value: float) -> SceneScores:
        score = {name: Score(scale=1.0, metrics={"PSNR": value}) for name in SCALES}
        return SceneScores(scene=scene, seed=seed, views=1, scores={OURS: score})

    items = [scored("a", 0, 1.0), scored("a", 1, 2.0), scored("b", 0, 3.0), scored("b", 1, 6.0)]
    both = dataclasses.replace(result, scores=tuple(items))
    assert both.values(OURS, "oracle", "PSNR") == [2.0, 4.0]
    assert both.values(OURS, "oracle", "SSIM") == []
    lacking = dataclasses.replace(items[3], scores={OURS: {}})
    both = dataclasses.replace(result, scores=(*items[:3], lacking))
    assert both.values(OURS, "depth", "PSNR") == []  # a mean over other scenes would mislead


def test_the_search_takes_lpips_where_it_is_measured():
    grid = {1.0: {"PSNR": 9.0, "LPIPS (VGG16)": 0.2}, 1.1: {"PSNR": 10.0, "LPIPS (VGG16)": 0.3}}
    assert search_best(grid) == 1.0
    assert search_best({g: {"PSNR": m["PSNR"]} for g, m in grid.items()}) == 1.1


def test_scales_from_depth_are_ratios_of_depth():
    scene = torch.full((10, 10), 2.0)
    known = torch.zeros(10, 10)
    known[:3] = 3.0
    known[0, 0] = 300.0  # a wrong match
    scene[1, 0] = 0.0  # nothing there
    assert aligned_scale(known, scene) == pytest.approx(1.5)
    known[1:] = 0
    assert aligned_scale(known, scene) is None
    # What lies in the centre is at depth 1.4 in units of the scene.
    depth_z = torch.full((30, 30), 1.4)
    assert centre_scale(depth_z, 0.7) == pytest.approx(1 / 1.4)


def test_known_depth_of_a_scan_is_triangulated_from_its_views(root: Path):
    scene = read_scan(root / "scan8", "scan8", PROTOCOL, limit=1)
    known = scene.known_depth_z > 0
    assert int(known.sum()) >= 12
    error = (scene.known_depth_z[known] * UNIT / true_depth(1)[known] - 1).abs()
    assert float(error.median()) < 0.02


def test_the_numbers_of_a_tiny_evaluation_are_the_expected_ones(result, repository: Path):
    with (repository / "benchmarks" / "expected.toml").open("rb") as file:
        expected = tomllib.load(file)["tiny_dtu"]
    (scores,) = result.scores
    for method, columns in expected["methods"].items():
        for scale, metrics in columns.items():
            found = scores.scores[method][scale].metrics
            for metric, value in metrics.items():
                tolerance = expected["tolerance"][metric]
                assert found[metric] == pytest.approx(value, abs=tolerance), (method, scale, metric)
