"""`zeronvs doctor`: what is here, what is missing, and what that costs."""

import importlib.metadata
import json
import os

import pytest
import torch
from tiny_pipelines import tiny_warp

from zeronvs import __version__
from zeronvs.cli import benchmark, doctor
from zeronvs.cli.benchmark import BenchmarkSizes
from zeronvs.recipes.presets import FIELD, PAPER, LiftRecipe, OutputConfig
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


def test_the_benchmark_measures_every_kind_of_command():
    sizes = BenchmarkSizes(
        photo_px=64,
        draft=LiftRecipe(
            lift=LiftConfig(fill_side_px=32, surround_width_px=48, color_steps=1),
            outputs=OutputConfig(size_px=16, orbit_frames=2, sway_frames=2),
        ),
        ray_px=(2, 4),
        sampling_steps=1,
    )
    found = list(benchmark.measure("cpu", sizes, tiny_warp(downscale=4)))
    commands = [measurement.command for measurement in found]
    assert len(commands) == 5
    assert "--preset field" in commands[0]
    assert "--preset paper" in commands[2]
    assert all(measurement.seconds > 0 and measurement.memory_mib > 0 for measurement in found)


def test_the_rays_of_a_step_are_those_of_its_stage():
    paper, field = PAPER.distill, FIELD.distill
    assert benchmark.rays_of_step(paper, 0) == 7 * 128**2
    assert benchmark.rays_of_step(paper, 2000) == 2 * 256**2
    assert benchmark.rays_of_step(field, 0) == 768 + 2304


def test_it_takes_no_arguments(zeronvs, capsys):
    assert zeronvs("doctor", "me") == 2
    assert capsys.readouterr().out == ""
