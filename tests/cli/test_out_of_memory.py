"""A GPU whose memory runs out in the middle of a command: one line, and a flag that helps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from posed_folder import write_pairs
from shard_folders import write_shards
from tiny_pipelines import tiny_released

from zeronvs._core.errors import memory_used_up
from zeronvs.distillation.config import RenderStage
from zeronvs.recipes.presets import FAST, PAPER, PRESETS
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def released_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "released"
    pipe = tiny_released()
    with torch.no_grad():
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_field_presets(tiny_presets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fast and paper a matter of seconds, with all of their parts."""
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    assert FAST.surround is not None
    assert FAST.distill.refresh is not None
    for name, recipe in (("fast", FAST), ("paper", PAPER)):
        distill = recipe.distill.with_steps(4)
        distill = replace(
            distill,
            field_config=replace(distill.field_config, grid=grid, hidden_width=8),
            proposal_config=replace(distill.proposal_config, grid=grid, hidden_width=8),
            render_config=replace(distill.render_config, proposal_samples=8, final_samples=8),
            stages=(RenderStage(from_step=0, sds_views=1, sds_size_px=8, reference_size_px=8),),
            anchors=replace(distill.anchors, num_inference_steps=2),
            supervised_rays=32,
            refresh=distill.refresh and replace(distill.refresh, every=2, num_inference_steps=2),
        )
        surround = recipe.surround and replace(recipe.surround, count=2, num_inference_steps=2)
        small = replace(PRESETS["field"].outputs, size_px=16, near_size_px=16)
        tiny = replace(recipe, distill=distill, surround=surround, outputs=small)
        monkeypatch.setitem(PRESETS, name, tiny)


def full_at_call(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Let the memory be used up when a method is called for the n-th time."""
    method, calls = getattr(owner, name), []

    def limited(self, *arguments, **settings):
        calls.append(name)
        if len(calls) >= call:
            raise FULL
        return method(self, *arguments, **settings)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize(
    ("preset", "where"),
    [
        ("fast", (UNet2DConditionModel, "forward", 3)),  # while views around are sampled
        ("fast", (FieldScene, "render_rays", 4)),  # in a step
        ("paper", (UNet2DConditionModel, "forward", 5)),  # after the anchors
        ("paper", (FieldScene, "render_rays", 4)),
    ],
)
def test_a_scene_names_the_preset_that_needs_no_model_and_can_be_resumed(
    preset, where, zeronvs, photo_path, released_folder, tiny_field_presets, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ("scene", photo_path, "-o", out, f"--preset={preset}", "--model", released_folder)
    words = (*words, "--device", "cpu")
    with pytest.MonkeyPatch.context() as full:
        full_at_call(full, *where)
        assert zeronvs(*words) == 1
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == (
        "zeronvs: error: the memory of the GPU is used up; try --preset preview (no diffusion "
        "model) or --device cpu"
    )
    assert "Traceback" not in printed
    assert not [path for path in out.rglob("*") if ".part" in path.name]
    zeronvs(*words, "--resume")  # so few steps give a scene of one colour, which is refused
    assert "fit the scene 4/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("views", "PHOTO", "-o", "OUT", "--frames", 3, "--steps", 2), "--batch-size"),
        (("evaluate", "views", "POSED", "-o", "OUT", "--steps", 2), "--batch-size"),
        (("train", "SHARDS", "-o", "OUT", "--steps", 2, "--batch", 2), "--batch 1"),
        (("train", "SHARDS", "-o", "OUT", "--steps", 2, "--batch", 1), "--gradient-checkpointing"),
    ],
)
def test_other_commands_name_the_flag_that_needs_less(
    words, flag, zeronvs, photo_path, released_folder, tmp_path, capsys, monkeypatch
):
    out, posed, shards = tmp_path / "out", tmp_path / "posed", tmp_path / "shards"
    if "POSED" in words:
        write_pairs(posed)
    if "SHARDS" in words:
        write_shards(shards)
    places = {"PHOTO": photo_path, "OUT": out, "POSED": posed, "SHARDS": shards}
    words = [places.get(word, word) for word in words]
    chosen = ("--from" if words[0] == "train" else "--model", released_folder)
    more = ("--effective-batch", 2) if words[0] == "train" else ()
    full_at_call(monkeypatch, UNet2DConditionModel, "forward", 2)
    assert zeronvs(*words, *chosen, *more, "--device", "cpu") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("zeronvs: error: the memory of")
    assert flag in line
    assert not [path for path in out.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize(
    ("error", "which"),
    [
        (FULL, "gpu"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "gpu"),
        (RuntimeError("Failed to allocate 4096 bytes on device 'cuda:0'"), "gpu"),
        (RuntimeError("Failed to allocate 4096 bytes on device 'cpu'"), "machine"),
        (MemoryError(), "machine"),
        (RuntimeError("shape mismatch"), None),
        (ValueError("out of memory of what was said"), None),
    ],
)
def test_memory_that_is_used_up_is_recognised_whoever_says_so(error, which):
    assert memory_used_up(error) == which


def test_torch_says_so_on_a_processor():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory_used_up(caught.value) == "machine"
