"""Training the depth network."""

import contextlib
import copy
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zeronvs.depth.builtin import DepthNet
from zeronvs.training.depth import (
    DepthTrainingConfig,
    _augment,
    _gradient,
    _photo_loss,
    _posed_loss,
    train_depth,
)
from zeronvs.training.pack import TrainingPack

PLAIN = DepthTrainingConfig(
    steps=12, posed_batch=3, photo_batch=2, learning_rate=3e-3, mixed_precision=False
)


def tiny_net() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet(input_size_px=32, decoder_channels=(8, 8, 8, 8))


def test_the_loss_of_a_fixed_batch_falls(pack: TrainingPack, tmp_path: Path):
    net, events = tiny_net(), []

    def loss() -> float:
        config = DepthTrainingConfig(
            steps=1, posed_batch=4, photo_batch=2, mixed_precision=False, seed=50
        )
        seen = []
        with tempfile.TemporaryDirectory() as folder:
            train_depth(copy.deepcopy(net), pack, config, Path(folder), seen.append)
        return seen[0].values["posed"] + seen[0].values["photo"]

    before = loss()
    train_depth(net, pack, PLAIN, tmp_path, events.append)
    assert [event.step for event in events] == list(range(1, PLAIN.steps + 1))
    assert all(math.isfinite(value) for event in events for value in event.values.values())
    assert loss() < 0.95 * before


def test_a_run_that_was_cut_off_goes_on_with_the_same_losses(pack: TrainingPack, tmp_path: Path):
    def losses(net: DepthNet, steps: int, folder: str) -> list[float]:
        events = []
        config = replace(PLAIN, steps=6, checkpoint_steps=3)
        interrupted = Interrupted(after=steps, tell=events.append)
        with contextlib.suppress(KeyboardInterrupt):
            train_depth(net, pack, config, tmp_path / folder, interrupted)
        return [event.values["posed"] for event in events]

    whole = losses(tiny_net(), 6, "whole")
    cut = losses(tiny_net(), 4, "cut")  # a kill loses the step after the last stored state
    rest = losses(tiny_net(), 6, "cut")
    assert len(rest) == 3
    assert cut[:3] + rest == pytest.approx(whole, rel=1e-5)


class Interrupted:
    """A listener at which somebody presses Ctrl-C."""

    def __init__(self, after, tell):
        self.after, self.tell, self.heard = after, tell, 0

    def __call__(self, event):
        self.tell(event)
        self.heard += 1
        if self.heard == self.after:
            raise KeyboardInterrupt


def test_training_is_a_function_of_its_seed(pack: TrainingPack, tmp_path: Path):
    def last(seed: int) -> dict[str, float]:
        events = []
        config = DepthTrainingConfig(
            steps=2, posed_batch=1, photo_batch=1, mixed_precision=False, seed=seed
        )
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        train_depth(tiny_net(), pack, config, folder, events.append)
        return dict(events[-1].values)

    assert last(1) == pytest.approx(last(1))
    assert last(1) != pytest.approx(last(2))


def test_batch_statistics_of_the_encoder_stay_as_they_are(pack: TrainingPack, tmp_path: Path):
    net = tiny_net()
    before = {name: value.clone() for name, value in net.named_buffers()}
    train_depth(net, pack, DepthTrainingConfig(steps=1, mixed_precision=False), tmp_path)
    for name, value in net.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_depth_of_posed_frames_counts_up_to_scale():
    depth = 1 + torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(_posed_loss(5.0 / depth, depth, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(_posed_loss(5.0 / depth + 1, depth, 1.0)) > 0.01


def test_unknown_depth_does_not_count():
    depth = 1 + torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    disparity = 1 / depth
    disparity[0, :3] = 7.0
    depth[0, :3] = 0
    assert float(_posed_loss(disparity, depth, 1.0)) == pytest.approx(0, abs=1e-5)
    assert bool(torch.isfinite(_posed_loss(disparity, torch.zeros_like(depth), 1.0)))


def test_a_teacher_counts_up_to_scale_and_shift():
    teacher = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(_photo_loss(3 * teacher + 2, teacher, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(_photo_loss(-teacher, teacher, 1.0)) > 0.5


def test_edges_count_at_several_scales():
    known = torch.ones(1, 16, 16, dtype=torch.bool)
    step = torch.zeros(1, 16, 16)
    step[..., 8:] = 1
    assert float(_gradient(torch.ones(1, 16, 16), known)) == 0
    assert float(_gradient(step, known)) > 1 / 16


@pytest.mark.parametrize("posed", [True, False])
def test_augmented_pictures_keep_their_depth_beside_them(posed: bool):
    # A picture that shows its own depth still does so after crop and mirror.
    ramp = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    ramp = torch.nn.functional.interpolate(ramp[None], (64, 64), mode="bilinear")[0]
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        image, target, fraction = _augment(
            ramp.expand(3, -1, -1), ramp[0], 32, posed, PLAIN, generator
        )
        assert image.shape == (3, 32, 32)
        assert target.shape == (16, 16)
        assert PLAIN.min_crop_fraction - 0.02 <= fraction <= 1
        grey = torch.nn.functional.avg_pool2d(image[:1], 2)[0]
        both = torch.stack([grey.flatten(), target.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.9


def test_only_photographs_are_cropped_off_the_centre():
    # The middle of a symmetric hill stays in the middle of a centred crop.
    line = 1 - torch.linspace(-1, 1, 64).abs()
    hill = line[:, None] * line

    def middles(posed: bool) -> list[float]:
        found = []
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            image = hill.expand(3, -1, -1)
            _, target, _ = _augment(image, hill, 32, posed, PLAIN, generator)
            rows = target.sum(1)
            found.append(float((rows * torch.arange(16.0)).sum() / rows.sum()))
        return found

    assert middles(posed=True) == pytest.approx([7.5] * 8, abs=0.2)
    assert max(middles(posed=False)) - min(middles(posed=False)) > 1


def test_the_first_stages_of_the_encoder_stay_as_they_are(pack: TrainingPack, tmp_path: Path):
    net = tiny_net()
    before = copy.deepcopy(net.state_dict())
    config = replace(PLAIN, steps=2, frozen_stages=2, encoder_learning_rate=0.01)
    train_depth(net, pack, config, tmp_path)
    changed = {
        name.split(".layers")[0]
        for name, value in net.state_dict().items()
        if not torch.allclose(value, before[name], atol=1e-3)  # the state keeps half precision
    }
    assert not {name for name in changed if name.startswith(("stem", "stages.0", "stages.1"))}
    assert any(name.startswith("stages.2") for name in changed)
    assert all(parameter.requires_grad for parameter in net.parameters())
