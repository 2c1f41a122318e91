"""3D Gaussian splats as a value (Kerbl et al., arXiv:2308.04079), without view dependence."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.conventions import quaternion, rotation_matrix


@dataclass(frozen=True, eq=False)
class GaussianSplats:
    """A cloud of Gaussians that are composited front to back."""

    means: Float[Tensor, "n 3"]
    """Centres in world coordinates, scene units."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the splat's own axes, scene units, > 0."""
    rotations: Float[Tensor, "n 4"]
    """Quaternions w, x, y, z that turn the splat's axes to the world's; need not be unit."""
    opacities: Float[Tensor, " n"]
    """Opacity at the centre, in [0, 1]."""
    colors: Float[Tensor, "n 3"]
    """RGB in [0, 1]."""

    def __len__(self) -> int:
        """Return the number of splats."""
        return self.means.shape[0]

    def __getitem__(self, index: "slice | Tensor") -> "GaussianSplats":
        """Return some of the splats."""
        return GaussianSplats(
            **{item.name: getattr(self, item.name)[index] for item in fields(self)}
        )

    @staticmethod
    def cat(clouds: "Sequence[GaussianSplats]") -> "GaussianSplats":
        """Return one cloud that holds the splats of all, in order."""
        return GaussianSplats(
            **{
                item.name: torch.cat([getattr(cloud, item.name) for cloud in clouds])
                for item in fields(GaussianSplats)
            }
        )

    def with_colors(self, colors: Float[Tensor, "n 3"]) -> "GaussianSplats":
        """Return the same splats in other colours."""
        return replace(self, colors=colors)

    def to(self, device: torch.device | str) -> "GaussianSplats":
        """Return the same splats with their tensors on `device`."""
        return GaussianSplats(
            **{item.name: getattr(self, item.name).to(device) for item in fields(self)}
        )

    def detach(self) -> "GaussianSplats":
        """Return the same splats without gradient."""
        return GaussianSplats(
            **{item.name: getattr(self, item.name).detach() for item in fields(self)}
        )

    def moved(
        self, rotation: Float[Tensor, "3 3"], shift: Float[Tensor, "3"] | None = None
    ) -> "GaussianSplats":
        """Return the splats turned about the origin, then shifted (None: by nothing)."""
        means = self.means @ rotation.mT
        # The product of two quaternions (w, x, y, z): the vector parts rotate, then add up.
        a, u = quaternion(rotation).split([1, 3])
        b, v = self.rotations.split([1, 3], dim=-1)
        turned = [
            a * b - (u * v).sum(-1, keepdim=True),
            a * v + b * u + u.expand_as(v).cross(v, -1),
        ]
        return replace(
            self,
            means=means if shift is None else means + shift,
            rotations=torch.cat(turned, dim=-1),
        )

    @property
    def covariances(self) -> Float[Tensor, "n 3 3"]:
        """Covariance matrices in world axes: R S S^T R^T (Eq. 6)."""
        axes = rotation_matrix(self.rotations) * self.scales[:, None, :]
        return axes @ axes.mT
