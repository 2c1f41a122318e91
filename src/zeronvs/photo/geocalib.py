"""GeoCalib (Veicht et al., ECCV 2024; github.com/cvg/GeoCalib), as the user installed it.

It predicts the field of view and the direction of gravity of one image.
"""

import importlib
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs.protocols import Calibration

LICENCE = "code Apache-2.0, weights CC-BY-4.0"
MIN_ELEVATION_SPREAD_RAD = math.radians(2.0)
"""Lower bound of the spread: its own is that of the optimisation alone."""


class GeoCalibrator:
    """Field of view and gravity by GeoCalib."""

    title = "GeoCalib"

    def __init__(self, network: Any) -> None:
        """Take a `geocalib.GeoCalib`."""
        self._network = network

    def calibrate(self, image: Float[Tensor, "3 h w"]) -> Calibration:
        """Return the calibration of an image in [0, 1].

        Raises:
            InputError: It predicts no finite numbers.
        """
        device = next(self._network.parameters()).device
        found = self._network.calibrate(image.to(device, torch.float32))
        # Its gravity is the world's up direction in OpenCV axes (x right, y down, z forward).
        right, down, forward = found["gravity"].vec3d.flatten().tolist()
        fov_y_rad = float(found["camera"].vfov.flatten()[0])
        if not all(math.isfinite(value) for value in (right, down, forward, fov_y_rad)):
            raise InputError(f"{self.title} cannot calibrate this photograph")
        return Calibration(
            fov_y_rad=fov_y_rad,
            fov_spread_rad=_spread(found, "vfov_uncertainty"),
            elevation_rad=-math.asin(max(-1.0, min(1.0, forward))),
            elevation_spread_rad=max(MIN_ELEVATION_SPREAD_RAD, _spread(found, "pitch_uncertainty")),
            roll_rad=math.atan2(right, -down),
            source=self.title,
        )


def _spread(found: Any, name: str) -> float:
    value = float(found[name].flatten()[0]) if name in found else 0.0
    return value if math.isfinite(value) else 0.0


def load_geocalib(weights: str | Path, *, device: torch.device | str = "cpu") -> GeoCalibrator:
    """Load GeoCalib with weights that were downloaded before (`geocalib-pinhole.tar`).

    Raises:
        InputError: There is no such file, GeoCalib is not installed, or it cannot read the file.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; give the weights of GeoCalib, geocalib-pinhole.tar of "
            "github.com/cvg/GeoCalib/releases",
            argument="camera_model",
        )
    try:
        module = importlib.import_module("geocalib")
    except ImportError as error:
        raise InputError(
            "GeoCalib is not installed. Run: pip install git+https://github.com/cvg/GeoCalib",
            argument="camera_model",
        ) from error
    with ReadingErrors(f"{path} cannot be loaded by GeoCalib"):
        return GeoCalibrator(module.GeoCalib(weights=str(path)).to(device).eval())
