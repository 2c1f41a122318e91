"""Gaussian splats as OpenUSD (.usdc), by the extra `usd`.

The schema UsdVolParticleField3DGaussianSplat (OpenUSD 26.03 and newer) wants scales and opacities
as they are, and colours as the constant spherical harmonic. The stage has y up; our x, y, z is
written as x, z, -y, as in glTF.
"""

from pathlib import Path

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.optional import require
from zeronvs.formats.viewer_splats import harmonics, viewer_splats
from zeronvs.splats import GaussianSplats

_REACH = 3.0
"""Standard deviations that a splat reaches, for the box around all."""


def write_splat_usd(path: Path, splats: GaussianSplats) -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.

    Args:
        path: Where to; the suffix chooses the form (.usdc: binary, .usda: text).
        splats: In our world.

    Raises:
        ImportError: usd-core is not installed, or older than the schema.
    """
    splats = viewer_splats(splats, "y-up")
    modules = ("Usd", "UsdGeom", "UsdVol", "Vt")
    usd, geometry, volume, arrays = (require(f"pxr.{name}", "usd") for name in modules)
    if not hasattr(volume, "ParticleField3DGaussianSplat"):
        raise InputError("usd-core is older than 26.3. Run: pip install -U 'zeronvs[usd]'")
    vectors = arrays.Vec3fArray.FromNumpy
    means, scales = splats.means.numpy(), splats.scales.numpy()
    reach = _REACH * scales.max(1, keepdims=True)
    box = np.stack([(means - reach).min(0), (means + reach).max(0)])
    with write_aside(path) as aside:
        stage = usd.Stage.CreateNew(str(aside))
        geometry.SetStageUpAxis(stage, geometry.Tokens.y)
        geometry.SetStageMetersPerUnit(stage, 1.0)
        prim = volume.ParticleField3DGaussianSplat.Define(stage, "/scene")
        stage.SetDefaultPrim(prim.GetPrim())
        prim.CreatePositionsAttr(vectors(means))
        prim.CreateScalesAttr(vectors(scales))
        # The arrays of quaternions are x y z w in memory.
        xyzw = splats.rotations.roll(-1, dims=-1).contiguous().numpy()
        prim.CreateOrientationsAttr(arrays.QuatfArray.FromNumpy(xyzw))
        opacities = splats.opacities.clamp(0, 1).numpy()
        prim.CreateOpacitiesAttr(arrays.FloatArray.FromNumpy(opacities))
        prim.CreateRadianceSphericalHarmonicsDegreeAttr(0)
        prim.CreateRadianceSphericalHarmonicsCoefficientsAttr(vectors(harmonics(splats).numpy()))
        prim.CreateExtentAttr(vectors(box))
        stage.GetRootLayer().Save()
    return len(splats)
