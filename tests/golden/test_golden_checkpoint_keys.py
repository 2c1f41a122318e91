"""Every tensor of the full-size released file is accounted for, on the meta device."""

import json

import pytest
import torch

from zeronvs.checkpoints.architecture_reading import (
    architecture_of_checkpoint,
    is_of_megascenes,
)
from zeronvs.checkpoints.convert import account_for_keys
from zeronvs.checkpoints.keys import ema_name, links_of


@pytest.fixture(scope="module")
def shapes(golden_dir) -> dict[str, tuple[int, ...]]:
    content = json.loads((golden_dir / "official_checkpoint_keys.json").read_text())
    return {name: tuple(shape) for name, shape in content.items()}


@pytest.fixture(scope="module")
def architecture(shapes):
    return architecture_of_checkpoint(shapes, {})


def test_every_official_tensor_has_one_fate(shapes, architecture):
    report = account_for_keys(shapes, architecture)
    fates = (report.converted, report.derived, report.replaced, report.unused, report.unknown)
    names = [name for fate in fates for name in fate]
    assert sorted(names) == sorted(shapes)
    assert report.uses_ema
    assert not report.unknown
    assert all(name.startswith("cond_stage_model.model.") for name in report.unused)
    assert not any(".visual." in name for name in report.unused)


def test_every_stored_tensor_comes_from_one_official_tensor_of_its_shape(shapes, architecture):
    links = links_of(architecture)
    for component, module in architecture.empty_components().items():
        expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
        made: dict[str, tuple[int, ...]] = {}
        for link in links[component]:
            official = torch.empty(shapes[link.official], device="meta")
            for name, part in zip(link.stored, link.to_stored(official), strict=True):
                assert name not in made
                made[name] = tuple(part.shape)
        assert made == expected


def test_what_is_written_back_lacks_only_the_text_tower(shapes, architecture):
    written = {*architecture.schedule.buffers(), "model_ema.decay", "model_ema.num_updates"}
    for links in links_of(architecture).values():
        written.update(link.official for link in links)
    written.update(ema_name(link.official) for link in links_of(architecture)["unet"])
    missing = shapes.keys() - written
    assert written <= shapes.keys()
    assert all(name.startswith("cond_stage_model.model.") for name in missing)
    assert not any(".visual." in name for name in missing)


@pytest.mark.parametrize(("channels", "columns"), [(8, 772), (11, 787)])
def test_the_relatives_of_the_released_file_are_accounted_for_too(shapes, channels, columns):
    of_megascenes = channels == 11
    name = "model.diffusion_model.input_blocks.0.0.weight"
    relative = shapes | {"cc_projection.weight": (768, columns)}
    for key in (name, ema_name(name)):
        relative[key] = (320, channels, 3, 3)
    assert is_of_megascenes(relative, {}) == of_megascenes
    architecture = architecture_of_checkpoint(relative, {}, of_megascenes=of_megascenes)
    assert architecture.camera_embed_dim == columns - 768
    assert architecture.unet.in_channels == channels
    report = account_for_keys(relative, architecture, takes_average=not of_megascenes)
    assert not report.unknown
    assert report.uses_ema != of_megascenes
    averages = [key for key in report.unused if key.startswith("model_ema.")]
    assert len(averages) == (len(links_of(architecture)["unet"]) if of_megascenes else 0)
