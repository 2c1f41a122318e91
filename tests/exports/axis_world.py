"""A scene that no mirror and no turn maps to itself: one ball on each axis, each of its own."""

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.scene.field import FieldConfig, FieldSample, RadianceField
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

CENTRES = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 0.3]])
COLORS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
RADIUS = 0.14


class AxisBalls(torch.nn.Module, RadianceField):
    """A red ball on +x, a green one on +y, a blue one on +z, at different distances."""

    config = FieldConfig()

    def _distance(self, points):
        return (points[..., None, :] - CENTRES).norm(dim=-1)

    def density(self, points):
        return 300.0 * (self._distance(points).amin(dim=-1) < RADIUS).float()

    def color(self, points):
        return COLORS[self._distance(points).argmin(dim=-1)]

    def sample(self, points, *, with_gradient=False):
        return FieldSample(self.density(points), self.color(points))


def axis_scene() -> FieldScene:
    grid = HashGridConfig(levels=2, log2_table_size=8, base_resolution=4)
    scene = FieldScene(
        FieldConfig(grid=grid, hidden_width=4),
        RenderConfig(near=0.3, far=4.0, proposal_samples=0, final_samples=192),
        ProposalConfig(grid=grid, hidden_width=4),
    )
    scene.field = AxisBalls()
    return scene


def cameras_around(count: int = 8, size_px: int = 32) -> Camera:
    azimuth = torch.arange(count) * (2 * torch.pi / count)
    elevation = torch.tensor([0.7, -0.5]).repeat(count // 2)
    poses = orbit_pose(azimuth, elevation, torch.full((count,), 1.7))
    return Camera.from_fov(poses, 0.9, (size_px, size_px))


def centres_by_color(points: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Return the middle of the box that holds most of the red, the green, and the blue points."""
    label = colors.argmax(dim=-1)
    boxes = [
        points[label == index].quantile(torch.tensor([0.02, 0.98]), dim=0) for index in range(3)
    ]
    return torch.stack([box.mean(dim=0) for box in boxes])
