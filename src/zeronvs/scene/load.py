"""Read a scene of either kind."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from zeronvs.protocols import Scene
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.splat_scene import FORMAT, SplatScene


def load_scene(path: Path, device: torch.device | str = "cpu") -> Scene:
    """Read the scene that a run saved: splats or a radiance field.

    Raises:
        InputError: The file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            is_splats = (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        is_splats = False  # the reader below says what is wrong
    return SplatScene.load(path, device) if is_splats else FieldScene.load(path, device)
