"""Figure 9: diversity is 0 where seeds agree and grows as they differ, seen from behind."""

import json
from pathlib import Path

import pytest
import torch
from ball_runs import BLUE, RED, write_run
from perceptual_weights import alex_weights

from zeronvs._core.errors import InputError
from zeronvs.evaluation.figure9 import (
    HEAT_FULL,
    diversity_rows,
    evaluate_figure9,
    figure,
    heat_map,
    pairwise_distance,
    write_figure9,
)
from zeronvs.exports.export import render_frames
from zeronvs.perceptual import PerceptualDistance
from zeronvs.recipes.run_folder import open_run, path_cameras


@pytest.fixture
def perceptual() -> PerceptualDistance:
    return PerceptualDistance(alex_weights())


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Return three seeds by each method: plain ones are all alike, anchored ones are not."""
    colours = ((0.5, 0.5, 0.5), RED, BLUE)
    return [
        write_run(
            tmp_path / f"{anchors}_{seed}",
            "tea",
            colours[seed] if anchors else RED,
            seed=seed,
            anchors=anchors,
        )
        for anchors in (0, 2)
        for seed in (2, 0, 1)
    ]


def test_seeds_that_agree_have_no_diversity_and_others_have(runs, perceptual):
    plain, anchored = evaluate_figure9(runs, perceptual, size_px=48)
    assert (plain.method, anchored.method) == ("without anchors", "2 anchors")
    assert plain.seeds == anchored.seeds == (0, 1, 2)
    assert plain.distance == pytest.approx(0.0, abs=1e-6)
    assert float(plain.deviation.max()) == pytest.approx(0.0, abs=1e-6)
    assert anchored.distance is not None
    assert anchored.distance > 0.001
    assert float(anchored.deviation.max()) > 0.1
    assert [row[1] for row in diversity_rows([plain, anchored])[1:]] == [
        "without anchors",
        "2 anchors",
    ]


def test_the_views_are_those_from_behind_in_the_order_of_seeds(runs, perceptual):
    _, anchored = evaluate_figure9(runs, perceptual, size_px=48)
    run = open_run(runs[3])  # seed 2
    cameras = path_cameras("orbit", run.input_camera, 8, 48, run.orbit_distances)
    truth, _ = render_frames(run.scene, cameras[[3, 4, 5]])
    torch.testing.assert_close(anchored.views[2], truth)
    assert anchored.views.shape == (3, 3, 3, 48, 48)
    assert anchored.resolution == "48x48"
    behind = cameras[4].position
    assert float(torch.atan2(behind[1], behind[0]).abs()) == pytest.approx(torch.pi, abs=1e-5)


def test_the_distance_is_the_mean_over_pairs_of_seeds_and_views(perceptual):
    views = torch.rand(3, 2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = torch.cat([perceptual(views[a], views[b]) for a, b in pairs]).mean()
    assert pairwise_distance(views, perceptual) == pytest.approx(float(expected), rel=1e-5)


def test_a_heat_map_goes_from_black_over_red_and_yellow_to_white():
    values = torch.tensor([[0.0, HEAT_FULL / 3, 2 * HEAT_FULL / 3, HEAT_FULL, 1.0]])
    expected = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1.0]])
    torch.testing.assert_close(heat_map(values)[:, 0], expected)


def test_the_report_has_the_numbers_and_a_figure(runs, tmp_path: Path):
    groups = evaluate_figure9([*runs[:2], *runs[3:]], None, size_px=32)  # without weights
    files = write_figure9(tmp_path / "out", groups)
    assert all(path.is_file() for path in files)
    sheet = figure(groups)
    assert sheet.shape == (3, 2 * 32 + 4, 4 * 32 + 3 * 4)  # 3 seeds and the heat map
    torch.testing.assert_close(sheet[:, :32, :32], groups[0].views[0, 1])
    torch.testing.assert_close(sheet[:, :32, 72:104], torch.ones(3, 32, 32))  # no third seed
    content = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    values = {(r["method"], r["metric"]): r["value"] for r in content["results"]}
    assert values["2 anchors", "ST-LPIPS between seeds"] is None
    assert values["2 anchors", "deviation of pixels"] == pytest.approx(
        float(groups[1].deviation.mean())
    )


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path: Path):
    with pytest.raises(InputError, match="the only seed of tea"):
        evaluate_figure9(runs[:4], None, size_px=32)
    with pytest.raises(InputError, match="same photograph, method and seed"):
        evaluate_figure9([*runs, runs[0]], None, size_px=32)
    preview = write_run(tmp_path / "preview", "tea", RED)
    with pytest.raises(InputError, match="no run of a radiance field"):
        evaluate_figure9([*runs, preview], None, size_px=32)
    tilted = write_run(tmp_path / "t", "tea", RED, seed=7, anchors=2, elevation_rad=0.6)
    with pytest.raises(InputError, match="different cameras"):
        evaluate_figure9([*runs, tilted], None, size_px=32)
