"""Figure 7: what is blurred and what is moved, and that the metrics are told apart by it."""

from pathlib import Path

import pytest
import torch
from perceptual_weights import alex_weights

from zeronvs.evaluation.figure7 import (
    BLUR,
    MEAN,
    METHODS,
    SHIFT,
    Figure7Config,
    blurred,
    evaluate_figure7,
    ordering_notes,
    shifted,
)
from zeronvs.evaluation.held_out import HeldOutScenes, read_pair_names
from zeronvs.evaluation.image_metrics import ImageMetrics
from zeronvs.evaluation.metrics import WARP, psnr
from zeronvs.perceptual import PerceptualDistance


def test_a_shift_moves_every_pixel_and_continues_the_border():
    image = torch.rand(3, 8, 9)
    moved = shifted(image, 2)
    torch.testing.assert_close(moved[:, 2:, 2:], image[:, :-2, :-2])
    torch.testing.assert_close(moved[:, 0, 2:], image[:, 0, :-2])
    assert torch.equal(shifted(image, 0), image)


def test_blur_keeps_the_mean_and_is_the_gaussian_of_its_width():
    image = torch.zeros(3, 33, 33)
    image[:, 16, 16] = 1.0
    found = blurred(image, 2.0)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3), atol=1e-4, rtol=0)
    axis = torch.arange(33) - 16.0
    variance = (found[0].sum(0) * axis**2).sum()
    assert float(variance) == pytest.approx(4.0, rel=0.01)


@pytest.fixture(scope="module")
def evaluation(held_out: Path):
    metrics = ImageMetrics(perceptual=PerceptualDistance(alex_weights()))
    config = Figure7Config(size_px=48, blur_share=0.1, shift_share=0.1)
    return evaluate_figure7(held_out, metrics, config)


def test_every_method_is_measured_against_the_true_view(evaluation, held_out: Path):
    assert evaluation.methods == METHODS
    assert len(evaluation.pairs) == 5
    scenes = HeldOutScenes(held_out, 48)
    for name, scored in zip(read_pair_names(held_out), evaluation.pairs, strict=True):
        pair = scenes.pair(name)
        truth = pair.target_view.image
        mean = pair.input_view.image.mean((1, 2), keepdim=True).expand_as(truth)
        expected = {MEAN: mean, SHIFT: shifted(truth, 5), BLUR: blurred(truth, 4.8)}
        for method, image in expected.items():
            value = float(psnr(image[None], truth[None]))
            assert scored.scores[method]["PSNR"] == pytest.approx(value, abs=1e-3)
    same = evaluation.pairs[4]  # the input is the target: the warp moves nothing
    assert same.scores[WARP]["PSNR"] > 40


def test_the_order_of_the_methods_is_told_for_each_metric(evaluation):
    lines = ordering_notes(evaluation)
    assert [line.split()[0] for line in lines] == ["PSNR", "SSIM", "ST-LPIPS", "Published,"]
    for metric, line in zip(evaluation.metrics, lines, strict=False):
        order = line.split("from best to worst: ")[1].rstrip(".").split("; ")
        means = [sum(pair.scores[method][metric] for pair in evaluation.pairs) for method in order]
        assert means == sorted(means, reverse=metric != "ST-LPIPS")
        wins = sum(
            (pair.scores[BLUR][metric] > pair.scores[SHIFT][metric]) == (metric != "ST-LPIPS")
            for pair in evaluation.pairs
        )
        assert f"in {wins} of 5 pairs" in line


def test_the_sheet_shows_input_truth_and_all_methods(evaluation):
    assert {len(images) for rows in evaluation.sheets.values() for images in rows} == {6}
