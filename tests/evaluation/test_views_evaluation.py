"""Measuring new views of held-out scenes: baselines, protocol and report."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from perceptual_weights import feature_weights
from PIL import Image
from tiny_pipelines import FixedGeometry

from zeronvs._core.errors import InputError
from zeronvs.evaluation.held_out import HeldOutScenes, motion_classes, read_pair_names
from zeronvs.evaluation.metrics import (
    KID,
    WARP,
    WARP_MIRROR,
    WARP_NEAREST,
    WARP_TEXTURE,
    ImageFeatures,
    kernel_distance,
)
from zeronvs.evaluation.views import COPY, ViewsEvaluationConfig, evaluate_views
from zeronvs.evaluation.views_report import markdown_table, table_rows, write_views_report

CONFIG = ViewsEvaluationConfig(batch_size=2, sheet_rows=1, size_px=128)


@pytest.fixture(scope="module")
def evaluation(held_out: Path):
    return evaluate_views(None, held_out, None, CONFIG)


def test_the_warp_along_true_depth_beats_the_copy(evaluation):
    warped, copied = (evaluation.mean("large", method, "PSNR") for method in (WARP, COPY))
    assert warped > copied + 1
    assert evaluation.methods == (WARP_TEXTURE, WARP, WARP_NEAREST, WARP_MIRROR, COPY)
    assert evaluation.metrics == ("PSNR", "SSIM")


def test_a_frame_paired_with_itself_is_copied_perfectly(evaluation):
    same = [pair for pair in evaluation.pairs if pair.name.input == pair.name.target]
    assert len(same) == 1
    assert same[0].scores[COPY] == {"PSNR": 100.0, "SSIM": pytest.approx(1.0)}
    assert same[0].scores[WARP]["PSNR"] > 40


def test_scores_do_not_depend_on_the_batch(held_out: Path, evaluation):
    config = dataclasses.replace(CONFIG, batch_size=5)
    together = evaluate_views(None, held_out, None, config)
    for one, other in zip(evaluation.pairs, together.pairs, strict=True):
        assert one.name == other.name
        for method, scores in one.scores.items():
            assert other.scores[method] == pytest.approx(scores, rel=1e-3)


def test_classes_come_in_order_and_a_limit_spreads_over_the_list(held_out: Path):
    names = read_pair_names(held_out)
    assert len(names) == 5
    assert motion_classes(names) == ["small", "large"]
    limited = read_pair_names(held_out, 2)
    assert [name.scene for name in limited] == ["room", "hall"]


def test_the_scene_scale_is_a_near_depth_of_the_input(held_out: Path):
    scenes = HeldOutScenes(held_out, 128)
    names = read_pair_names(held_out)
    measured, aligned = scenes.pair(names[0]), scenes.pair(names[2])
    for pair in (measured, aligned):
        depth = pair.input_view.depth_z
        assert pair.input_view.image.shape == (3, 128, 128)
        assert float((depth < pair.scene_scale).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_a_depth_network_stands_in_where_no_disparity_lies(held_out: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    (folder / "hall").mkdir(parents=True)
    for path in (held_out / "hall").iterdir():
        if "teacher" not in path.name:
            (folder / "hall" / path.name).write_bytes(path.read_bytes())
    name = next(name for name in read_pair_names(held_out) if name.scene == "hall")
    truth = HeldOutScenes(held_out, 128).pair(name).input_view.depth_z

    def relative_depth(images: torch.Tensor) -> torch.Tensor:
        return (0.5 * truth / truth.median())[None].expand(len(images), -1, -1)

    pair = HeldOutScenes(folder, 128, FixedGeometry(relative_depth)).pair(name)
    error = (pair.input_view.depth_z / truth - 1).abs()
    assert float(error.median()) < 0.1
    with pytest.raises(InputError, match="is unknown: it has no depth"):
        HeldOutScenes(folder, 128).pair(name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no pairs.json"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("3", "not a list of pairs"),
        ("[]", "holds no pairs"),
        ('[{"scene": "room"}]', "not a list of pairs"),
        (
            '[{"scene": "../room", "input": "0.png", "target": "1.png", "motion_class": "small"}]',
            "outside its folder",
        ),
        (
            '[{"scene": "none", "input": "0.png", "target": "1.png", "motion_class": "small"}]',
            "not a posed scene",
        ),
    ],
)
def test_wrong_pairs_are_refused_in_one_line(tmp_path: Path, content: str | None, says: str):
    if content is not None:
        (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        evaluate_views(None, tmp_path, None, CONFIG)
    assert "\n" not in str(caught.value)


def test_a_frame_that_is_not_there_is_named(held_out: Path, tmp_path: Path):
    (tmp_path / "room").symlink_to(held_out / "room")
    wrong = [{"scene": "room", "input": "7.png", "target": "1.png", "motion_class": "small"}]
    (tmp_path / "pairs.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"7\.png of room"):
        evaluate_views(None, tmp_path, None, CONFIG)


def test_pairs_that_cannot_be_read_are_named_and_the_others_are_measured(
    held_out: Path, tmp_path: Path, evaluation
):
    pairs = json.loads((held_out / "pairs.json").read_text())
    wrong = [{**pairs[0], "scene": "none"}, {**pairs[0], "target": "7.png"}]
    (tmp_path / "pairs.json").write_text(json.dumps([wrong[0], pairs[0], wrong[1], *pairs[1:]]))
    for scene in ("room", "hall"):
        (tmp_path / scene).symlink_to(held_out / scene)
    found = evaluate_views(None, tmp_path, None, CONFIG)
    assert [pair.name for pair in found.pairs] == [pair.name for pair in evaluation.pairs]
    mean = evaluation.mean("small", COPY, "PSNR")
    assert found.mean("small", COPY, "PSNR") == pytest.approx(mean)
    assert [pair.name.scene for pair in found.left_out] == ["none", "room"]
    write_views_report(tmp_path / "out", found, source="here", model="none")
    left_out = json.loads((tmp_path / "out" / "metrics.json").read_text())["left_out"]
    assert "7.png" in left_out[1]["reason"]
    assert "Left out: 2 pairs" in (tmp_path / "out" / "table.md").read_text()


def test_the_report_holds_the_table_the_numbers_and_pictures(evaluation, tmp_path: Path):
    files = write_views_report(tmp_path, evaluation, source="here", model="none")
    assert {path.name for path in files} == {
        "metrics.json",
        "table.md",
        "report.html",
        "sheet_small.png",
        "sheet_large.png",
    }
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["schema"] == 2
    assert content["settings"]["batch_size"] == 2
    assert len(content["pairs"]) == 5
    mean = np.mean([p["scores"][COPY]["PSNR"] for p in content["pairs"][:3:2]])
    assert content["means"]["large"][COPY]["PSNR"] == pytest.approx(mean)
    assert (tmp_path / "table.md").read_text() == markdown_table(evaluation)
    with Image.open(tmp_path / "sheet_large.png") as sheet:
        assert sheet.width == 6 * 128 + 5 * 4  # input, truth and four warps
    rows = table_rows(evaluation)
    assert rows[0][1:3] == ["small (3) PSNR", "small (3) SSIM"]
    assert [row[0] for row in rows[1:]] == [WARP_TEXTURE, WARP, WARP_NEAREST, WARP_MIRROR, COPY]


def test_the_page_of_the_report_is_one_file_with_tables_spread_and_sheets(
    evaluation, tmp_path: Path
):
    write_views_report(tmp_path, evaluation, source="<b>here</b>", model="none", notes=["a note"])
    page = (tmp_path / "report.html").read_text()
    assert "none on &lt;b&gt;here&lt;/b&gt;" in page
    assert page.count("<table>") == page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page
    assert "a note" in page
    scores = [p.scores[COPY]["PSNR"] for p in evaluation.pairs if p.name.motion_class == "small"]
    assert f"{np.mean(scores):.2f}<small>± {np.std(scores):.2f}" in page
    best = max(evaluation.mean("small", method, "PSNR") for method in evaluation.methods)
    assert f"<td class=best>{best:.2f}" in page


def test_the_kernel_distance_is_of_all_views_of_a_class(held_out: Path):
    features = ImageFeatures(feature_weights())
    config = dataclasses.replace(CONFIG, batch_size=4)
    found = evaluate_views(None, held_out, None, config, features=features)
    assert found.metrics == ("PSNR", "SSIM", KID)
    scenes = HeldOutScenes(held_out, CONFIG.size_px)
    names = [name for name in read_pair_names(held_out) if name.motion_class == "small"]
    pairs = [scenes.pair(name) for name in names]
    inputs, targets = (
        features(torch.stack([getattr(pair, view).image for pair in pairs]))
        for view in ("input_view", "target_view")
    )
    assert found.mean("small", COPY, KID) == pytest.approx(kernel_distance(inputs, targets), 1e-4)
    assert found.mean("small", WARP, KID) != found.mean("small", COPY, KID)
    assert KID in table_rows(found)[0][3]


def test_views_are_measured_at_256_px_unless_told_otherwise():
    assert ViewsEvaluationConfig().size_px == 256
