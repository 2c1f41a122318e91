"""Published depth networks, from weights that the user has: Depth Anything, Depth Pro, MoGe-2.

Depth Anything and Depth Pro are classes of transformers; MoGe-2 is the user's own installation.
Nothing is downloaded, and no code in a folder of weights is run.
"""

import importlib
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import read_json, read_text
from zeronvs.depth.builtin import load_builtin_depth, near_quantile
from zeronvs.protocols import Geometry, GeometryEstimator

BUILTIN = "builtin"
FOV_SPREAD_RAD = math.radians(5.0)
"""Depth Pro and MoGe-2 predict no spread; their published errors are 3 to 6 degrees."""
FARTHEST = 50.0
"""Relative disparity has an unknown shift, so that the sky may be at any depth: it is put at this
many times the near quantile at most."""
MAX_CONFIG_BYTES = 2**20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([\w .+-]{1,60})", re.MULTILINE)


class DepthModel(NamedTuple):
    """A depth network, and what to show about it."""

    estimator: GeometryEstimator
    title: str
    licence: str
    """Of its code and its weights, one line."""


class DepthAnything:
    """Depth Anything (V1, V2) of transformers, relative or metric."""

    def __init__(self, network: Any, processor: Any, title: str) -> None:
        """Take a `DepthAnythingForDepthEstimation` and the image processor of its folder."""
        self._network, self._processor, self._title = network, processor, title
        self._is_metric = network.config.depth_estimation_type == "metric"

    @torch.no_grad()
    def estimate(self, image: Float[Tensor, "b 3 h w"]) -> Geometry:
        """Return metric depth, or relative depth whose disparity has an unknown shift."""
        predicted = torch.stack([self._predict(one) for one in image])
        if self._is_metric:
            depth_z = _usable(predicted, self._title)
            return Geometry(depth_z=depth_z, kind="metric", source=self._title)
        return _relative(predicted, self._title)

    def _predict(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        inputs = self._processor(images=[np.ascontiguousarray(pixels)], return_tensors="pt")
        values = inputs["pixel_values"].to(self._network.device, self._network.dtype)
        predicted = self._network(pixel_values=values).predicted_depth
        return _resized(predicted, image)[0]


class DepthPro:
    """Depth Pro of transformers: metric depth and field of view.

    Its image processor there needs torchvision; what it does is done here (`_inputs`).
    """

    title = "Depth Pro"

    def __init__(self, network: Any) -> None:
        """Take a `DepthProForDepthEstimation`."""
        self._network = network
        config = network.config
        self._side_px = round(config.patch_size / min(config.scaled_images_ratios))

    @torch.no_grad()
    def estimate(self, image: Float[Tensor, "b 3 h w"]) -> Geometry:
        """Return metric depth and field of view; relative depth if it has no head for the latter.

        The network predicts disparity for a focal length of one image width (Bochkovskii et al.
        2024, section 3), and the horizontal field of view in degrees.
        """
        height_px, width_px = image.shape[-2:]
        predicted = self._network(pixel_values=self._inputs(image))
        disparity = _resized(predicted.predicted_depth, image)
        if predicted.field_of_view is None:
            return _relative(disparity, self.title)
        fov_x_rad = predicted.field_of_view.to(image.device, torch.float32).flatten().deg2rad()
        half_slope = torch.tan(0.5 * fov_x_rad.clamp(math.radians(5), math.radians(150)))
        # Width over focal length is twice the slope.
        depth_z = 1.0 / (disparity * 2.0 * half_slope[:, None, None]).clamp(1e-4, 1e4)
        return Geometry(
            depth_z=_usable(depth_z, self.title),
            kind="metric",
            fov_y_rad=2.0 * torch.atan(half_slope * height_px / width_px),
            fov_spread_rad=torch.full_like(half_slope, FOV_SPREAD_RAD),
            source=self.title,
        )

    def _inputs(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Normalise to [-1, 1], then stretch to the square that the network takes."""
        values = (image.to(self._network.device, torch.float32) - 0.5) / 0.5
        size_px = (self._side_px, self._side_px)
        return F.interpolate(values, size_px, mode="bilinear").to(self._network.dtype)


class MoGe:
    """MoGe-2 (github.com/microsoft/MoGe), as the user installed it: metric depth, field of view."""

    title = "MoGe-2"

    def __init__(self, network: Any) -> None:
        """Take a `moge.model.v2.MoGeModel`."""
        self._network = network

    def estimate(self, image: Float[Tensor, "b 3 h w"]) -> Geometry:
        """Return metric depth and field of view; the sky is as far as the farthest known depth."""
        half = next(self._network.parameters()).device.type == "cuda"
        predicted = self._network.infer(image, use_fp16=half)
        # Copied: tensors of inference mode cannot be used where gradients are wanted.
        depth_z = predicted["depth"].to(image.device, torch.float32).clone()
        focal = predicted["intrinsics"][:, 1, 1].to(image.device, torch.float32).clone()
        return Geometry(
            depth_z=_usable(depth_z, self.title),
            kind="metric",
            fov_y_rad=2.0 * torch.atan(0.5 / focal),  # in units of the image's height
            fov_spread_rad=torch.full_like(focal, FOV_SPREAD_RAD),
            source=self.title,
        )


def _resized(
    predicted: Float[Tensor, "b h2 w2"], image: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "b h w"]:
    """Return float32 predictions of the image's size, on its device."""
    values = predicted.to(image.device, torch.float32)[:, None]
    return F.interpolate(values, image.shape[-2:], mode="bilinear")[:, 0]


def _relative(disparity: Float[Tensor, "b h w"], title: str) -> Geometry:
    """Turn disparity of unknown scale into relative depth."""
    disparity = disparity.nan_to_num(0.0, posinf=0.0)
    near = disparity.flatten(1).amax(1)
    if not bool((near > 0).all()):
        raise InputError(f"{title} predicts no depth for this photograph; use another depth model")
    # Twice: the quantile must be that of disparity that is positive everywhere.
    floor = 1.0 / near_quantile(1.0 / disparity.maximum(1e-3 * near[:, None, None]))
    depth_z = 1.0 / disparity.maximum((floor / FARTHEST)[:, None, None])
    depth_z = depth_z / near_quantile(depth_z)[:, None, None]
    return Geometry(depth_z=depth_z, kind="relative", source=title)


def _usable(depth_z: Float[Tensor, "b h w"], title: str) -> Float[Tensor, "b h w"]:
    """Put pixels without depth, as a rule the sky, at the farthest depth of their image."""
    known = depth_z.isfinite() & (depth_z > 0)
    if not bool(known.flatten(1).any(1).all()):
        raise InputError(f"{title} predicts no depth for this photograph; use another depth model")
    farthest = torch.where(known, depth_z, 0.0).flatten(1).amax(1)
    return torch.where(known, depth_z, farthest[:, None, None])


def load_depth_model(name: str, *, device: torch.device | str = "cpu") -> DepthModel:
    """Load a depth network.

    Args:
        name: "builtin", a folder of transformers (Depth Anything, Depth Pro), a file or folder with
            the `model.pt` of MoGe-2, or the hub id of one that is in the hub's cache.
        device: Where it runs.

    Raises:
        InputError: There is no such network, or it cannot be read.
    """
    if name == BUILTIN:
        builtin = load_builtin_depth(device=device)
        return DepthModel(builtin, "built-in", "code Apache-2.0, weights as its model card")
    path = Path(name).expanduser()
    if not path.exists():
        path = _in_hub_cache(name)
    if path.is_file() or (path / "model.pt").is_file():
        return _load_moge(path if path.is_file() else path / "model.pt", device)
    return _load_of_transformers(path, device)


def _in_hub_cache(name: str) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such file or folder", argument="depth_model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # of any kind: a damaged cache can raise anything
        raise InputError(
            f"{name} is no folder, and not in the hub's cache; nothing is downloaded unasked. "
            f"Run: hf download {name}",
            argument="depth_model",
        ) from error


def _load_of_transformers(folder: Path, device: torch.device | str) -> DepthModel:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is no depth model: it has neither config.json nor model.pt",
            argument="depth_model",
        )
    config = read_json(folder / "config.json", max_bytes=MAX_CONFIG_BYTES)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ("depth_anything", "depth_pro"):
        raise InputError(
            f"{folder} holds a model of the kind {str(kind)[:40]!r}; depth_anything and depth_pro "
            "are known",
            argument="depth_model",
        )
    _check_nothing_is_fetched(config, folder)
    import transformers
    from transformers.utils import logging

    pro = kind == "depth_pro"
    name = "DepthProForDepthEstimation" if pro else "DepthAnythingForDepthEstimation"
    settings = {"local_files_only": True, "trust_remote_code": False}
    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with ReadingErrors(f"{folder} cannot be loaded as a depth model"):
            network = getattr(transformers, name).from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, **settings
            )
            network = network.to(device).eval()
            if pro:
                return DepthModel(DepthPro(network), DepthPro.title, _licence(folder, "apple-amlr"))
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **settings)
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    title = f"Depth Anything ({network.config.depth_estimation_type})"
    of_v2 = "of V2: small Apache-2.0, larger CC-BY-NC-4.0"
    return DepthModel(DepthAnything(network, processor, title), title, _licence(folder, of_v2))


def _check_nothing_is_fetched(config: Any, folder: Path) -> None:
    """Refuse a configuration that makes transformers fetch a backbone or a kernel."""
    inner = list(config.values()) if isinstance(config, dict) else config
    for value in inner if isinstance(inner, list) else ():
        _check_nothing_is_fetched(value, folder)
    if not isinstance(config, dict):
        return
    fetched = bool(config.get("backbone")) or bool(config.get("use_pretrained_backbone"))
    for key in ("attn_implementation", "_attn_implementation"):
        fetched |= config.get(key) not in (None, "eager", "sdpa")
    if fetched:
        raise InputError(f"{folder}: its config.json names a model or kernel elsewhere")


def _licence(folder: Path, published: str) -> str:
    """Return the licences: those that the model card in the folder states, else the published."""
    card = folder / "README.md"
    text = read_text(card, max_bytes=MAX_CONFIG_BYTES) if card.is_file() else ""
    header = text.split("---", 2)[1] if text.startswith("---") else ""
    found = [name.strip() for name in _LICENCE.findall(header)]
    weights = f"weights {', '.join(found)}" if found else f"weights (published) {published}"
    return f"code Apache-2.0 (transformers), {weights}"


def _load_moge(path: Path, device: torch.device | str) -> DepthModel:
    try:
        module = importlib.import_module("moge.model.v2")
    except ImportError as error:
        raise InputError(
            f"{path.name} is read by MoGe, which is not installed. Run: pip install "
            "git+https://github.com/microsoft/MoGe.git",
            argument="depth_model",
        ) from error
    with ReadingErrors(f"{path} cannot be loaded by MoGe"):
        network = module.MoGeModel.from_pretrained(str(path)).to(device).eval()
    return DepthModel(MoGe(network), MoGe.title, "code MIT, weights as their model card")
