"""What other systems lack: POSIX on Windows, float64 and some operations on Apple GPUs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pretended_cuda import PretendedGpu
from test_devices import MODELS, prepared, tiny

from zeronvs.distillation import health
from zeronvs.exports import export as export_module
from zeronvs.recipes.presets import PresetName, Recipe
from zeronvs.recipes.run_folder import open_run, render_run
from zeronvs.recipes.write_run import write_scene_run, write_views_run

MPS = torch.device("mps", 0)

WITHOUT_POSIX = """
import os, pkgutil, sys
import accelerate, av, diffusers, fastapi, numba, scipy, skimage, transformers, trimesh, uvicorn
import multiprocessing.pool, peft, safetensors.torch, torch.utils.data, tyro
import zeronvs
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "getuid", "killpg", "setsid", "sysconf", "uname"):
    delattr(os, name)
for module in pkgutil.walk_packages(zeronvs.__path__, "zeronvs."):
    if "__main__" not in module.name:
        __import__(module.name)
"""


def test_every_module_is_imported_without_what_windows_lacks(repository: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


def lacking_on_mps() -> frozenset[str]:
    """Return the operations that the installed torch has for a CPU and not for an Apple GPU.

    Without those that torch chooses by itself, and on a CPU only.
    """
    import torchgen

    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    entries = yaml.safe_load((folder / "native_functions.yaml").read_text())
    backends, delegates = {}, {}
    for entry in entries:
        name = entry["func"].split("(")[0]
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        backends[name] = keys
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
    lacking = set()
    for name, keys in backends.items():
        keys = keys | backends.get(delegates.get(name, ""), set())
        composite = any(key.startswith("Composite") for key in keys)
        chosen_by_torch = "_for_cpu" in name or "mkldnn" in name
        if "CPU" in keys and "MPS" not in keys and not composite and not chosen_by_torch:
            lacking.add(name if "." in name else f"{name}.default")
    return frozenset(lacking)


@pytest.fixture(scope="module")
def lacking():
    return lacking_on_mps()


@pytest.fixture
def mps(lacking):
    with PretendedGpu(MPS, lacking=lacking, has_float64=False) as pretended:
        yield pretended


def test_the_pretended_apple_gpu_refuses_what_one_refuses(mps, lacking):
    assert 20 < len(lacking) < 1500
    value = torch.ones(3, 3, device="mps")
    assert value.device == MPS
    for wide in (value.double, lambda: torch.ones(3, dtype=torch.float64).to("mps")):
        with pytest.raises(TypeError, match="float64"):
            wide()
    with pytest.raises(NotImplementedError, match="MPS"):
        torch.linalg.eigvals(value)


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("preview", "warp"), ("field", "warp"), ("fast", "warp"), ("paper", "released")],
)
def test_a_scene_is_made_and_rendered_on_an_apple_gpu(
    mps, tmp_path: Path, preset: PresetName, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "check_images", lambda images, name: [])
    monkeypatch.setattr(export_module, "SPLAT_SIZE_PX", 12)
    pipe, recipe = MODELS[kind]().to("mps"), tiny(preset)
    if isinstance(recipe, Recipe):
        recipe = recipe.fitted_to(pipe)
    write_scene_run(prepared("mps"), pipe, recipe, tmp_path)
    assert render_run(open_run(tmp_path, "mps"), path="spiral", frames=2).is_file()


@pytest.mark.parametrize("kind", MODELS)
def test_views_are_sampled_on_an_apple_gpu(mps, tmp_path: Path, kind: str):
    result = write_views_run(prepared("mps"), MODELS[kind]().to("mps"), "orbit", 3, tmp_path)
    assert (tmp_path / "views.mp4") in result.files
