"""Metrics against scikit-image's, and where weights are looked for."""

import sys
from pathlib import Path

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zeronvs.evaluation.metrics import PERCEPTUAL_FILE, find_perceptual_weights, psnr, ssim


def image_pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(2, 3, 24, 32, generator=generator)
    return one, (one + 0.2 * torch.randn(one.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_psnr_equals_scikit_image(seed: int, dtype: torch.dtype):
    one, other = (image.to(dtype) for image in image_pair(seed))
    for index, value in enumerate(psnr(one, other)):
        expected = peak_signal_noise_ratio(one[index].numpy(), other[index].numpy(), data_range=1)
        assert float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [7, 11])
@pytest.mark.parametrize("seed", range(3))
def test_ssim_equals_scikit_image(seed: int, window: int, dtype: torch.dtype):
    one, other = (image.to(dtype) for image in image_pair(seed))
    for index, value in enumerate(ssim(one, other, window_px=window)):
        expected = structural_similarity(
            one[index].numpy(), other[index].numpy(), win_size=window, data_range=1, channel_axis=0
        )
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_an_image_is_most_similar_to_itself():
    one, _ = image_pair(0)
    torch.testing.assert_close(ssim(one, one), torch.ones(2).double())
    torch.testing.assert_close(psnr(one, one), torch.full((2,), 100.0).double())


def test_masked_metrics_equal_those_of_a_crop():
    one, other = image_pair(4)
    mask = torch.zeros(2, 24, 32, dtype=torch.bool)
    mask[:, 3:20, 5:29] = True
    crop = (..., slice(3, 20), slice(5, 29))
    torch.testing.assert_close(psnr(one, other, mask), psnr(one[crop], other[crop]))
    torch.testing.assert_close(ssim(one, other, mask), ssim(one[crop], other[crop]))
    everything = torch.ones_like(mask)
    torch.testing.assert_close(psnr(one, other, everything), psnr(one, other))
    torch.testing.assert_close(ssim(one, other, everything), ssim(one, other))
    assert psnr(one, other, ~everything).isnan().all()
    assert ssim(one, other, ~everything).isnan().all()


def test_weights_are_found_in_an_installed_package_that_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    path = tmp_path / PERCEPTUAL_FILE
    path.parent.mkdir(parents=True)
    (tmp_path / "stlpips_pytorch" / "__init__.py").write_text("raise RuntimeError('imported')")
    path.write_bytes(b"weights")
    assert find_perceptual_weights() == path
    path.unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_perceptual_weights() is None
