"""Training the depth network: its loss terms, its augmentation, and the one loop over them."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from zeronvs.depth.builtin import DepthNet
from zeronvs.training.depth import (
    DepthBatches,
    DepthObjective,
    DepthTrainingConfig,
    augment,
    gradient_loss,
    paste,
    photo_loss,
    posed_loss,
    random_shape,
)
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import BUILTIN_DEPTH, FinetuneConfig
from zeronvs.training.pack import TrainingPack

LOSS = DepthTrainingConfig(posed_share=0.6, encoder_rate=0.2)
SHORT = replace(
    BUILTIN_DEPTH.shortened(12),
    effective_batch=5,
    batch=5,
    learning_rate=3e-3,
    checkpoint_every=3,
    log_every=1,
    exports_half=False,
)


def tiny_net() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet(input_size_px=32, decoder_channels=(8, 8, 8, 8))


def batches(pack: TrainingPack, config: FinetuneConfig = SHORT) -> DepthBatches:
    return DepthBatches(pack, config, LOSS, size_px=32, seed=config.seed)


def train(
    net: DepthNet, pack: TrainingPack, out: Path, config: FinetuneConfig = SHORT, progress=None
) -> list[dict]:
    settings = {} if progress is None else {"progress": progress}
    finetune(
        TrainingRun(
            objective=DepthObjective(net, config, LOSS),
            data=batches(pack, config),
            config=config,
            out=out,
            accelerator=Accelerator(cpu=True),
            **settings,
        )
    )
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_of_a_fixed_batch_falls(pack: TrainingPack, tmp_path: Path):
    net = tiny_net()
    fixed = batches(pack).read(99)

    def loss() -> float:
        with torch.no_grad():
            terms = DepthObjective(net, SHORT, LOSS)(fixed)
        return float(terms["posed"] + terms["photo"])

    before = loss()
    lines = train(net, pack, tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"posed", "photo", "fov"} <= set(lines[-1])
    assert lines[-1]["loss"] == pytest.approx(
        lines[-1]["posed"] + lines[-1]["photo"] + lines[-1]["fov"], rel=1e-5
    )
    assert loss() < 0.95 * before


class Interrupted:
    """A listener at which somebody presses Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, event) -> None:
        if event.step == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_run_resumes_with_the_same_losses_and_weights(
    pack: TrainingPack, tmp_path: Path
):
    config = replace(SHORT, steps=6)
    whole_net, cut_net, resumed_net = tiny_net(), tiny_net(), tiny_net()
    whole = train(whole_net, pack, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(cut_net, pack, tmp_path / "cut", config, Interrupted(after=4))
    resumed = train(resumed_net, pack, tmp_path / "cut", config)
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    for name, value in whole_net.state_dict().items():
        assert torch.equal(resumed_net.state_dict()[name], value), name
    states = [load_file(tmp_path / run / "state.safetensors") for run in ("whole", "cut")]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_training_is_a_function_of_its_seed(pack: TrainingPack):
    one, again = (batches(pack).read(3) for _ in range(2))
    other = batches(pack, replace(SHORT, seed=1)).read(3)
    assert torch.equal(one.image, again.image)
    assert not torch.equal(one.image, other.image)
    assert not torch.equal(one.image, batches(pack).read(4).image)


def test_batches_have_the_configured_share_of_posed_frames_first(pack: TrainingPack):
    batch = batches(pack).read(0)
    assert batch.image.shape == (5, 3, 32, 32)
    assert len(batch.log_tangent) == 3
    # Photographs of the pack have a disparity ramp, in grey values.
    assert float(batch.target[3:].max()) > 50
    assert float(batch.target[:3].max()) < 50


def test_the_terms_are_weighted(pack: TrainingPack):
    batch, net = batches(pack).read(0), tiny_net()

    def terms(**changes) -> dict[str, float]:
        with torch.no_grad():
            losses = DepthObjective(net, SHORT, replace(LOSS, **changes))(batch)
        return {name: float(value) for name, value in losses.items()}

    plain, without = terms(), terms(gradient_weight=0.0, fov_weight=0.1)
    assert without["fov"] == pytest.approx(2 * plain["fov"], rel=1e-4)
    with torch.no_grad():
        disparity, _ = net(batch.image)
    expected = posed_loss(disparity[:3], batch.target[:3], LOSS.gradient_weight)
    assert plain["posed"] == pytest.approx(float(expected), rel=1e-4)
    assert without["posed"] < plain["posed"]
    assert without["photo"] < plain["photo"]


def test_batch_statistics_of_the_encoder_stay_as_they_are(pack: TrainingPack, tmp_path: Path):
    net = tiny_net()
    before = {name: value.clone() for name, value in net.named_buffers()}
    train(net, pack, tmp_path, replace(SHORT, steps=1))
    for name, value in net.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_the_encoder_has_its_own_learning_rate_and_its_first_stages_none():
    net = tiny_net()
    objective = DepthObjective(net, SHORT, LOSS)
    encoder, rest = objective.parameter_groups()
    assert (encoder["peak_lr"], rest["peak_lr"]) == pytest.approx((6e-4, 3e-3))
    ids = {id(value) for group in (encoder, rest) for value in group["params"]}
    assert ids == {id(value) for value in net.parameters() if value.requires_grad}
    assert len(ids) == len(encoder["params"]) + len(rest["params"])
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
    stages = {name.split(".layers")[0] for name in frozen if name.startswith("stages")}
    assert {stage.rsplit(".", 1)[0] for stage in stages} == {"stages.0", "stages.1"}
    assert any(name.startswith("stem") for name in frozen)


def test_the_exported_network_has_the_trained_weights(pack: TrainingPack, tmp_path: Path):
    net = tiny_net()
    before = copy.deepcopy(net.state_dict())
    train(net, pack, tmp_path, replace(SHORT, steps=2, learning_rate=0.05))
    exported = DepthNet.from_pretrained(tmp_path / "depth").state_dict()
    changed = set()
    for name, value in net.state_dict().items():
        assert torch.equal(exported[name], value)
        if not torch.equal(value, before[name]):
            changed.add(name.split(".layers")[0])
    assert not {name for name in changed if name.startswith(("stem", "stages.0", "stages.1"))}
    assert any(name.startswith("stages.2") for name in changed)
    assert any(name.startswith("fusions") for name in changed)


def test_depth_of_posed_frames_counts_up_to_scale():
    depth = 1 + torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(posed_loss(5.0 / depth, depth, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(posed_loss(5.0 / depth + 1, depth, 1.0)) > 0.01


def test_unknown_depth_does_not_count():
    depth = 1 + torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    disparity = 1 / depth
    disparity[0, :3] = 7.0
    depth[0, :3] = 0
    assert float(posed_loss(disparity, depth, 1.0)) == pytest.approx(0, abs=1e-5)
    assert bool(torch.isfinite(posed_loss(disparity, torch.zeros_like(depth), 1.0)))


def test_a_teacher_counts_up_to_scale_and_shift():
    teacher = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(photo_loss(3 * teacher + 2, teacher, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(photo_loss(-teacher, teacher, 1.0)) > 0.5


def test_edges_count_at_several_scales():
    known = torch.ones(1, 16, 16, dtype=torch.bool)
    step = torch.zeros(1, 16, 16)
    step[..., 8:] = 1
    assert float(gradient_loss(torch.ones(1, 16, 16), known)) == 0
    assert float(gradient_loss(step, known)) > 1 / 16


@pytest.mark.parametrize("posed", [True, False])
def test_augmented_images_keep_their_depth_aligned(posed: bool):
    # An image of its own depth still is one after crop and mirror.
    ramp = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    ramp = torch.nn.functional.interpolate(ramp[None], (64, 64), mode="bilinear")[0]
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        image, target, fraction = augment(
            ramp.expand(3, -1, -1),
            ramp[0],
            32,
            is_posed=posed,
            min_crop_fraction=LOSS.min_crop_fraction,
            generator=generator,
        )
        assert image.shape == (3, 32, 32)
        assert target.shape == (16, 16)
        assert LOSS.min_crop_fraction - 0.02 <= fraction <= 1
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
            _, target, _ = augment(
                image, hill, 32, is_posed=posed, min_crop_fraction=0.65, generator=generator
            )
            rows = target.sum(1)
            found.append(float((rows * torch.arange(16.0)).sum() / rows.sum()))
        return found

    assert middles(posed=True) == pytest.approx([7.5] * 8, abs=0.2)
    assert max(middles(posed=False)) - min(middles(posed=False)) > 1


@pytest.mark.parametrize("seed", range(6))
def test_a_pasted_piece_stands_in_front_and_its_step_is_where_the_image_changes(seed: int):
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 100, 32).expand(32, 32)
    front_ramp = torch.linspace(40, 90, 32)[:, None].expand(32, 32)
    image, target = paste(
        torch.zeros(3, 64, 64), ramp, torch.ones(3, 64, 64), front_ramp, generator
    )
    covered = torch.nn.functional.avg_pool2d(image[:1], 2)[0] > 0.5
    assert covered.any()
    assert not covered.all()
    assert torch.equal(target[~covered], ramp[~covered])
    assert float(target[covered].min()) > float(ramp[covered].max()) + 5
    # Its own relief is kept, flattened.
    rows = torch.arange(32.0)[:, None].expand(32, 32)[covered]
    if float(rows.std()) > 0:
        both = torch.stack([rows, target[covered]])
        assert float(torch.corrcoef(both)[0, 1]) > 0.99
        assert float(target[covered].max() - target[covered].min()) < 0.4 * 100


def test_shapes_are_blobs_and_thin_bars_of_any_kind():
    shapes = [random_shape(64, torch.Generator().manual_seed(seed)) for seed in range(40)]
    shares = torch.tensor([float(shape.mean()) for shape in shapes])
    assert float(shares.min()) < 0.05
    assert 0.2 < float(shares.max()) < 0.5
    assert all(0 <= float(shape.min()) <= float(shape.max()) <= 1 for shape in shapes)


def test_some_photographs_have_a_piece_of_another_one_in_front(pack: TrainingPack):
    def read(share: float) -> torch.Tensor:
        loss = replace(LOSS, pasted_share=share)
        return DepthBatches(pack, SHORT, loss, size_px=32, seed=0).read(0).target

    never, always = read(0.0), read(1.0)
    # Ramps of photographs have no steps; posed frames are never pasted on.
    assert float((never[3:].diff(dim=-1)).abs().max()) < float(
        (always[3:].diff(dim=-1)).abs().max()
    )
    assert float(always[:3].max()) < 50
