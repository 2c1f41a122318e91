"""Scenes: rendering through cameras, learning from images, saving."""

import json
import math
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.scene.field import FieldConfig, RadianceField
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

GRID = HashGridConfig(levels=4, log2_table_size=10, base_resolution=4, growth=1.7)


def tiny_scene(seed=0):
    return FieldScene(
        FieldConfig(grid=GRID, hidden_width=8),
        RenderConfig(near=0.5, far=20.0, proposal_samples=16, final_samples=16),
        ProposalConfig(grid=GRID, hidden_width=8),
        generator=torch.Generator().manual_seed(seed),
    )


def orbit_cameras(count=2, size=(8, 10)):
    azimuth = torch.arange(count) * 0.7
    poses = orbit_pose(azimuth, torch.full((count,), 0.2), torch.ones(count) * 1.5)
    return Camera.from_fov(poses, 0.8, size)


def test_images_have_the_shape_of_the_cameras():
    with torch.no_grad():
        seen = tiny_scene().render(orbit_cameras(), with_normals=True)
    assert seen.rgb.shape == (2, 3, 8, 10)
    assert seen.normal.shape == (2, 3, 8, 10)
    assert seen.depth_z.shape == seen.opacity.shape == (2, 8, 10)
    assert seen.rgb.min() >= 0
    assert seen.rgb.max() <= 1


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_image_does_not_depend_on_the_chunk(chunk):
    scene, cameras = tiny_scene(), orbit_cameras(size=(4, 5))
    renderings = []
    for size in (4096, chunk):
        scene.render_config = replace(scene.render_config, chunk_rays=size)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            renderings.append(scene.render(cameras, generator=generator))
    torch.testing.assert_close(renderings[0].rgb, renderings[1].rgb)
    torch.testing.assert_close(renderings[0].depth_z, renderings[1].depth_z)


def everything_learned(graph_rays: int) -> tuple[list[float], list[torch.Tensor]]:
    """Return all that training reads of a rendering, and the gradient of all of it."""
    scene = tiny_scene()
    scene.render_config = replace(scene.render_config, graph_rays=graph_rays)
    generator = torch.Generator().manual_seed(3)
    seen = scene.render(
        orbit_cameras(size=(4, 5)),
        background=torch.tensor([0.2, 0.5, 0.7]),
        generator=generator,
        with_normals=True,
    )
    values = [
        seen.rgb.square().mean(),
        seen.opacity.square().mean(),
        seen.depth_z.log().mean(),
        seen.accumulated_distance.square().mean(),
        seen.normal[..., 1:, :].sub(seen.normal[..., :-1, :]).square().mean(),
        seen.interlevel_loss,
        seen.distortion_loss,
        seen.orientation_loss,
    ]
    torch.stack(values).sum().backward()
    gradients = [weight.grad for weight in scene.parameters()]
    return [value.item() for value in values], gradients


@pytest.mark.parametrize("graph_rays", [7, 20, 39])
def test_rays_rendered_again_in_the_backward_pass_give_the_same_values_and_gradients(graph_rays):
    kept, recomputed = everything_learned(40), everything_learned(graph_rays)
    assert recomputed[0] == pytest.approx(kept[0], rel=1e-5)
    assert kept[0][5] > 0  # the proposal's loss is there without a graph, too
    for ours, expected in zip(recomputed[1], kept[1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


def test_an_image_of_more_rays_than_a_graph_may_hold_keeps_none():
    def bytes_per_ray(graph_rays):
        scene, kept = tiny_scene(), weakref.WeakSet()
        scene.render_config = replace(scene.render_config, graph_rays=graph_rays)
        own = {weight.data_ptr() for weight in scene.parameters()}

        class Kept:
            def __init__(self, tensor):
                self.tensor = tensor

        def pack(tensor):
            packed = Kept(tensor)
            kept.add(packed)  # dies with the graph that saved it
            return packed

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
            rendering = scene.render(orbit_cameras(size=(4, 5)), with_normals=True)
        assert rendering.rgb.requires_grad
        tensors = [packed.tensor for packed in kept if packed.tensor.data_ptr() not in own]
        return sum(tensor.nbytes for tensor in tensors) / 40

    assert bytes_per_ray(40) > 5000
    assert bytes_per_ray(20) < 200


def test_a_frozen_scene_is_rendered_without_gradients():
    scene = tiny_scene().requires_grad_(False)
    scene.render_config = replace(scene.render_config, graph_rays=7)
    assert not scene.render(orbit_cameras(size=(4, 5))).rgb.requires_grad


def test_each_image_gets_its_own_background():
    scene = tiny_scene()
    torch.nn.init.zeros_(scene.field.density_head.weights[-1])
    backgrounds = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    with torch.no_grad():
        seen = scene.render(orbit_cameras(), background=backgrounds)
        bare = scene.render(orbit_cameras())
    left = (1 - bare.opacity)[:, None] * backgrounds[:, :, None, None]
    torch.testing.assert_close(seen.rgb, bare.rgb + left)


def test_gradients_reach_field_and_proposal():
    scene = tiny_scene()
    generator = torch.Generator().manual_seed(0)
    seen = scene.render(orbit_cameras(), generator=generator, with_normals=True)
    losses = [seen.rgb.mean(), seen.orientation_loss, seen.normal.square().mean()]
    sum([*losses, seen.interlevel_loss, seen.distortion_loss]).backward()
    for name, parameter in scene.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_scene_learns_from_images():
    generator = torch.Generator().manual_seed(0)
    cameras = orbit_cameras(count=3, size=(8, 8))
    background = torch.tensor([0.5, 0.6, 0.7])
    target = 0.25 + 0.5 * torch.linspace(0, 1, 8).expand(3, 3, 8, 8)
    scene = tiny_scene()
    optimizer = torch.optim.Adam(scene.parameters(), lr=5e-2, eps=1e-15)
    errors = []
    for _ in range(50):
        seen = scene.render(cameras, background=background, generator=generator)
        error = (seen.rgb - target).square().mean()
        optimizer.zero_grad()
        (error + seen.interlevel_loss).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]


def test_a_saved_scene_is_loaded_as_it_was(tmp_path):
    scene = tiny_scene()
    scene.save(tmp_path / "scene.safetensors")
    again = FieldScene.load(tmp_path / "scene.safetensors")
    assert again.render_config == scene.render_config
    assert again.field.config == scene.field.config
    assert again.proposal.config == scene.proposal.config
    with torch.no_grad():
        first, second = scene.render(orbit_cameras()), again.render(orbit_cameras())
    assert torch.equal(first.rgb, second.rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.safetensors"]


def test_files_that_are_no_scenes_are_refused_in_one_line(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"not a scene")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("junk", "other", "missing"):
        with pytest.raises(InputError) as caught:
            FieldScene.load(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_a_gpu_renders_what_the_cpu_renders():
    scene, cameras = tiny_scene(), orbit_cameras()
    with torch.no_grad():
        on_cpu = scene.render(cameras).rgb
        on_gpu = scene.to("cuda").render(cameras).rgb.cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)


def test_the_same_scene_is_written_in_the_same_bytes(tmp_path):
    scene = tiny_scene()
    for name in ("a", "b"):
        scene.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert list(file.metadata()) == ["scene"]  # several are written in any order


def test_a_scene_file_of_the_first_version_is_read(tmp_path):
    scene = tiny_scene()
    scene.save(tmp_path / "new")
    with safe_open(tmp_path / "new", framework="pt") as file:
        settings = json.loads(file.metadata()["scene"])
    older = {name: v if name == "format" else json.dumps(v) for name, v in settings.items()}
    save_file(scene.state_dict(), tmp_path / "old", older)
    for name, tensor in FieldScene.load(tmp_path / "old").state_dict().items():
        assert torch.equal(tensor, scene.state_dict()[name])


def changed(*path: str, to: object):
    """Return a change of the settings in a scene file."""

    def change(settings: dict, tensors: dict) -> None:
        for name in path[:-1]:
            settings = settings[name]
        settings[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda settings, tensors: settings.pop("field"),
        lambda settings, tensors: settings["field"].pop("grid"),
        lambda settings, tensors: tensors.pop(min(tensors)),
        lambda settings, tensors: tensors.update(extra=torch.zeros(3)),
        lambda settings, tensors: tensors.update({min(tensors): torch.full((1,), 1.0)}),
        lambda settings, tensors: tensors[min(tensors)].fill_(math.nan),
        changed("field", to=[]),
        changed("field", "nonsense", to=1),
        changed("field", "radius", to="wide"),
        changed("field", "radius", to=1e300),
        changed("field", "grid", "levels", to=10**9),
        changed("field", "grid", "levels", to=0),
        changed("field", "grid", "log2_table_size", to=40),
        changed("field", "grid", "base_resolution", to=10**5),
        changed("field", "hidden_width", to=10**6),
        changed("field", "hidden_width", to=-1),
        changed("render", to=None),
        changed("render", "chunk_rays", to=0),
        changed("render", "graph_rays", to=0),
        changed("render", "near", to=-1),
        changed("format", to=["x"]),
    ],
)
def test_a_scene_file_with_wrong_settings_or_tensors_is_refused(tmp_path, change):
    scene = tiny_scene()
    scene.save(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="pt") as file:
        settings = json.loads(file.metadata()["scene"])
    tensors = {name: tensor.clone() for name, tensor in scene.state_dict().items()}
    change(settings, tensors)
    save_file(tensors, tmp_path / "bad", {"scene": json.dumps(settings)})
    with pytest.raises(InputError, match="bad") as caught:
        FieldScene.load(tmp_path / "bad")
    assert "\n" not in str(caught.value)
    save_file(tensors, tmp_path / "bad", {"scene": "[" * 100_000})
    with pytest.raises(InputError, match="bad"):
        FieldScene.load(tmp_path / "bad")


class TiltedWall(torch.nn.Module, RadianceField):
    """Solid behind the plane normal . x = -1, which is tilted against every axis."""

    normal = torch.nn.functional.normalize(torch.tensor([1.0, 0.5, -0.3]), dim=-1)

    def density(self, points):
        return 400.0 * (points @ self.normal < -1.0).float()

    def color(self, points):
        return torch.full_like(points, 0.5)


def test_the_depth_of_a_tilted_wall_is_its_depth_along_the_optical_axis():
    scene = tiny_scene()
    scene.render_config = RenderConfig(near=0.5, far=20.0, proposal_samples=0, final_samples=1024)
    scene.field = TiltedWall()
    camera = Camera.from_fov(
        orbit_pose(torch.tensor([0.3]), torch.tensor([0.2]), torch.tensor([1.0])), 1.4, (12, 16)
    )
    with torch.no_grad():
        seen = scene.render(camera)
    # In a camera's frame a plane is linear in disparity: n . (x, y, -1) z = offset, so that its
    # depth_z follows from the slopes of a pixel alone.
    focal_px = camera.intrinsics_px[0, 1, 1]
    v, u = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    pixel = torch.stack([(u - 8) / focal_px, (6 - v) / focal_px, -torch.ones_like(u)], dim=-1)
    normal = camera.camera_to_world[0, :3, :3].mT @ TiltedWall.normal
    offset = -1.0 - camera.position[0] @ TiltedWall.normal
    expected = offset / (pixel @ normal)
    assert expected.min() > 0.5
    assert expected.max() < 20.0
    torch.testing.assert_close(seen.depth_z[0], expected, rtol=0.02, atol=0)
