"""`zeronvs doctor`: what is here, what is missing, and what that costs."""

import importlib.metadata
import json
import os

import pytest
import torch
from tiny_pipelines import tiny_warp

from zeronvs import __version__
from zeronvs.cli import benchmark, doctor
from zeronvs.cli.benchmark import BenchmarkSizes, Measurement
from zeronvs.distillation.kept_memory import rays_of_step, step_bytes
from zeronvs.recipes.presets import FAST, FIELD, PAPER, LiftRecipe, OutputConfig
from zeronvs.scene.grid_kernels import PlainKernels
from zeronvs.scene.lift import LiftConfig


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the printed rows: first column -> the rest."""
    lines = capsys.readouterr().out.splitlines()
    rows = (line.split("  ", 1) for line in lines if line.strip())
    return {name.strip(): rest.strip() for name, rest in rows}


def test_every_part_is_listed_with_its_version_or_size(zeronvs, capsys):
    assert zeronvs("doctor") == 0
    found = table(capsys)
    assert found["zeronvs"].startswith(__version__)
    assert found["torch"] == importlib.metadata.version("torch")
    assert set(doctor.REQUIRED) | set(doctor.OPTIONAL) <= set(found)
    assert found["processor"] == f"{os.cpu_count()} cores"
    assert "GiB" in found["memory"]
    assert "MiB" in found["model 'builtin'"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_what_to_expect(zeronvs, capsys):
    assert zeronvs("doctor") == 0
    assert "--preset preview" in table(capsys)["GPU"]


@pytest.mark.parametrize("package", list(doctor.OPTIONAL))
def test_a_missing_option_is_listed_with_its_cost(package, monkeypatch: pytest.MonkeyPatch):
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert dict(doctor.findings())[package] == f"not installed: {doctor.OPTIONAL[package]}"


def test_a_missing_requirement_is_listed_and_does_not_stop_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = dict(doctor.findings())
    assert all("install the package zeronvs again" in found[name] for name in doctor.REQUIRED)
    assert "model 'builtin'" in found


def test_programs_get_the_same_as_json(zeronvs, capsys):
    assert zeronvs("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == dict(doctor.findings())
    assert found["zeronvs"].startswith(__version__)


def test_it_names_the_kernels_that_compute_the_radiance_field(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("warp")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert dict(doctor.findings())["hash grid"] == f"fused kernels of Warp on {device}"
    monkeypatch.setattr("zeronvs.scene.hash_grid.kernels_for", lambda device: PlainKernels())
    assert "does not support" in dict(doctor.findings())["hash grid"]


@pytest.fixture(scope="module")
def measured() -> list[Measurement]:
    """Return the rows of a benchmark of everything at tiny size."""
    outputs = OutputConfig(size_px=16, near_size_px=24, orbit_frames=2, sway_frames=3)
    recipe = LiftRecipe(
        lift=LiftConfig(fill_side_px=32, surround_width_px=48, color_steps=1), outputs=outputs
    )
    sizes = BenchmarkSizes(
        draft_px=48,
        preview_px=(48, 64, 128),
        draft=recipe,
        preview=recipe,
        ray_px=(2, 4),
        sampling_steps=1,
    )
    return list(benchmark.measure("cpu", sizes, tiny_warp(downscale=4)))


def test_the_benchmark_has_a_row_for_every_kind_of_command(measured):
    flags = [measurement.command.split("OUT ")[1] for measurement in measured]
    assert flags == [
        "--frames 1",
        "--preset field",
        "--preset fast --model NAME",
        "--preset paper --model NAME",
        "--draft",
        "--resolution 48",
        "--resolution 64",
        "--resolution 128",
    ]
    assert all(measurement.seconds > 0 and measurement.memory_mib > 0 for measurement in measured)
    assert all(len(measurement.row()) == len(benchmark.HEADER) for measurement in measured)


def test_the_benchmark_says_what_was_run_and_what_was_counted(measured):
    rows = {measurement.command.split("OUT ")[1]: measurement for measurement in measured}
    assert rows["--resolution 64"].counted.startswith("3 frames at")
    assert rows["--resolution 64"].memory == "measured"
    larger, known = rows["--resolution 128"], [rows["--resolution 48"], rows["--resolution 64"]]
    assert (larger.ran, larger.memory) == ("nothing", "counted")
    pixels = (64**2 - 48**2, 128**2 - 64**2)
    grown = max(known[1].seconds - known[0].seconds, 0.0) * pixels[1] / pixels[0]
    assert larger.seconds == pytest.approx(known[1].seconds + grown)
    paper = rows["--preset paper --model NAME"]
    assert "4000 steps" in paper.counted
    assert "15000 evaluations" in paper.counted  # 2 x 500, 2,000 x 6 and 2,000 views
    assert "1350 evaluations" in rows["--preset fast --model NAME"].counted  # 7 x 50, 100 x 10
    assert "15 views at" in rows["--preset field"].counted


def test_the_memory_of_large_recipes_is_that_of_the_weights_and_of_what_the_steps_keep(measured):
    rows = {measurement.command.split("OUT ")[1]: measurement for measurement in measured}
    for name in ("paper", "fast"):
        row = rows[f"--preset {name} --model NAME"]
        assert row.memory == "counted"
        assert 1024 * 4.6 < row.memory_mib < 1024 * 4.7  # 4.65 GiB of weights while views are drawn
    assert step_bytes(PAPER.distill) / 2**30 == pytest.approx(1.59 + 0.20, abs=0.03)
    assert step_bytes(FAST.distill) / 2**30 == pytest.approx(0.51 + 0.20, abs=0.05)
    assert step_bytes(FIELD.distill) < step_bytes(FAST.distill)
    sampled = rows["--frames 1"].memory_mib  # the field is kept beside the built-in model
    assert rows["--preset field"].memory_mib >= sampled + step_bytes(FIELD.distill) / 2**20


def test_the_counted_weights_are_those_of_the_released_architecture(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from gpu_models import released_model

    pipe = released_model("meta", tiny=False)
    parts = (pipe.unet, pipe.vae, pipe.image_encoder, pipe.cc_projection)
    weights = sum(weight.numel() for part in parts for weight in part.parameters())
    assert weights == benchmark.RELEASED_WEIGHTS


def test_the_rays_of_a_step_are_those_of_its_stage():
    paper, field = PAPER.distill, FIELD.distill
    assert rays_of_step(paper, 0) == (128**2, 6 * 128**2)
    assert rays_of_step(paper, 2000) == (256**2, 256**2)
    assert rays_of_step(field, 0) == (768, 2304)


def test_it_takes_no_arguments(zeronvs, capsys):
    assert zeronvs("doctor", "me") == 2
    assert capsys.readouterr().out == ""
