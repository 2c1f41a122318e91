"""Views in a run folder come back exactly, or say that they are damaged."""

import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sphere_world import ring_cameras, sphere_views

from zeronvs._core.errors import InputError
from zeronvs._core.progress import ProgressEvent
from zeronvs.cameras.view import View
from zeronvs.distillation.anchors import quantized
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.view_files import (
    load_supervised,
    load_views,
    sample_kept,
    save_supervised,
    save_views,
)


@pytest.fixture
def views():
    exact = sphere_views(ring_cameras([0.5, 1.9, 4.1], size_px=12))
    return View(quantized(exact.image), exact.camera, exact.depth_z)


def test_pixels_cameras_and_depth_come_back_exactly(views, tmp_path):
    save_views(tmp_path, views)
    again = load_views(tmp_path)
    assert torch.equal(again.image, views.image)
    assert torch.equal(again.camera.camera_to_world, views.camera.camera_to_world)
    assert torch.equal(again.camera.intrinsics_px, views.camera.intrinsics_px)
    assert again.camera.image_size_px == views.camera.image_size_px
    assert torch.equal(again.depth_z, views.depth_z)


def test_views_without_depth_come_back_without(views, tmp_path):
    save_views(tmp_path, views)
    save_views(tmp_path, View(views.image, views.camera))
    assert load_views(tmp_path).depth_z is None


def test_how_far_views_are_trusted_comes_back_with_them(views, tmp_path):
    confidence = torch.rand(3, 12, 12)
    save_supervised(tmp_path, SupervisedViews(views, confidence=confidence))
    again = load_supervised(tmp_path)
    assert again.weight is None
    assert torch.equal(again.confidence, confidence)
    assert torch.equal(again.views.image, views.image)


def test_a_folder_that_was_not_finished_counts_as_missing(views, tmp_path):
    assert load_views(tmp_path / "nowhere") is None
    assert load_supervised(tmp_path / "nowhere") is None
    save_views(tmp_path, views)
    (tmp_path / "transforms.json").unlink()
    assert load_views(tmp_path) is None


def test_a_damaged_folder_says_so_and_what_to_do(views, tmp_path):
    save_views(tmp_path, views)
    (tmp_path / "001.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"is damaged .*Delete it"):
        load_views(tmp_path)


def edited(folder, change) -> None:
    path = folder / "transforms.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def replaced_by_pipe(folder) -> None:
    (folder / "001.png").unlink()
    os.mkfifo(folder / "001.png")


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "transforms.json").write_text('{"frames": [', encoding="utf-8"),
        lambda f: (f / "transforms.json").write_text("[" * 100_000, encoding="utf-8"),
        lambda f: edited(f, lambda c: c["frames"][0].update(file_path="/etc/hostname")),
        lambda f: edited(f, lambda c: c["frames"][0].update(file_path="../000.png")),
        lambda f: edited(f, lambda c: c["frames"][0].update(transform_matrix=3)),
        lambda f: edited(f, lambda c: c["frames"].append(None)),
        lambda f: edited(f, lambda c: c["frames"].pop()),  # depth of one more
        lambda f: Image.new("RGB", (13, 12)).save(f / "001.png"),
        lambda f: Image.new("L", (9000, 9000)).save(f / "001.png"),
        lambda f: (f / "001.png").write_bytes((f / "001.png").read_bytes()[:90]),
        replaced_by_pipe,
        lambda f: (f / "depth.safetensors").unlink(),
        lambda f: save_file({"depth": torch.ones(3, 12, 12)}, f / "depth.safetensors"),
        lambda f: save_file({"depth_z": torch.ones(3, 12, 9)}, f / "depth.safetensors"),
        lambda f: save_file({"depth_z": torch.ones(3, 12, 12) / 0}, f / "depth.safetensors"),
        lambda f: (f / "trust.safetensors").write_bytes(b"junk"),
        lambda f: save_file({"confidence": torch.ones(3, 9, 12)}, f / "trust.safetensors"),
        lambda f: save_file({"weight": torch.ones(2)}, f / "trust.safetensors"),
        lambda f: save_file({"weight": torch.ones(3) / 0}, f / "trust.safetensors"),
    ],
)
def test_damage_of_every_kind_says_so_and_what_to_do(views, tmp_path, damage):
    save_supervised(tmp_path, SupervisedViews(views, confidence=torch.rand(3, 12, 12)))
    damage(tmp_path)
    with pytest.raises(InputError, match=r"is damaged .*Delete it") as caught:
        load_supervised(tmp_path)
    assert "\n" not in str(caught.value)


def drawn_images(rows, progress):
    """Image k is of colour k / 10, whatever its batch; each step is told."""
    progress(ProgressEvent("draw", 1, 2))
    progress(ProgressEvent("draw", 2, 2))
    return torch.stack([torch.full((3, 4, 4), k / 10) for k in rows])


def test_images_that_a_stopped_run_kept_are_not_drawn_again(tmp_path):
    paths = [tmp_path / f"{k:03d}.png" for k in range(5)]
    asked = []

    def draw(rows, progress):
        asked.append(rows)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return drawn_images(rows, progress)

    with pytest.raises(KeyboardInterrupt):
        sample_kept(draw, paths, batch_size=2, resume=False)
    assert [path.exists() for path in paths] == [True, True, False, False, False]
    resumed = sample_kept(draw, paths, batch_size=3, resume=True)
    assert asked == [[0, 1], [2, 3], [2], [3, 4]]
    whole = sample_kept(
        drawn_images, [tmp_path / p.name for p in paths], batch_size=5, resume=False
    )
    assert torch.equal(resumed, whole)


def test_steps_are_counted_over_all_batches(tmp_path):
    events = []
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    sample_kept(drawn_images, paths, batch_size=1, resume=False, progress=events.append)
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert {event.total for event in events} == {6}


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="damaged"):
        sample_kept(drawn_images, [tmp_path / "0.png"], batch_size=1, resume=True)
