"""What a step of distillation keeps in memory, counted on any device.

What autograd keeps for the backward pass is the same everywhere. Temporaries of kernels are not
counted: the peak on a GPU is higher by them.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.distillation.config import DistillConfig
from zeronvs.scene.field_scene import FieldScene

_SIZE_PX = 16


class _Kept:
    """A saved tensor; alive as long as the graph that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(run: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Return the bytes that the graph of the result of `run` keeps, without weights."""
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        packed = _Kept(tensor)
        kept.add(packed)
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        result = run()
    storages = [packed.tensor.untyped_storage() for packed in kept]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del result
    return sum(size for address, size in sizes.items() if address not in own)


def bytes_per_ray(config: DistillConfig, *, with_normals: bool, recomputed: bool = False) -> float:
    """Return what a ray of a rendering of the field keeps.

    Args:
        recomputed: Whether the rays are so many that they are rendered again, piece by piece, in
            the backward pass.
    """
    rays = _SIZE_PX**2
    render = replace(config.render_config, graph_rays=rays // 4 if recomputed else rays)
    scene = FieldScene(config.field_config, render, config.proposal_config)
    pose = orbit_pose(torch.zeros(1), torch.full((1,), 0.3), torch.ones(1))
    camera = Camera.from_fov(pose, 0.9, (_SIZE_PX, _SIZE_PX))
    kept = kept_bytes(lambda: scene.render(camera, with_normals=with_normals), scene.parameters())
    return kept / rays


def field_bytes(config: DistillConfig) -> int:
    """Return the bytes of the field: weights, gradients, two moments of Adam."""
    with torch.device("meta"):
        scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    return 4 * sum(weight.numel() * weight.element_size() for weight in scene.parameters())


def rays_of_step(config: DistillConfig, step: int) -> tuple[int, ...]:
    """Return the rays of each rendering of a step: photo, supervised views, score distillation.

    Their graphs are in memory one after another.
    """
    stage = config.stage(step)
    rays = [config.reference_rays or stage.reference_size_px**2]
    if config.reference_rays is not None:
        rays.append(config.supervised_rays)
    if config.uses_sds:
        rays.append(stage.sds_views * stage.sds_size_px**2)
    return tuple(rays)


def step_bytes(config: DistillConfig) -> float:
    """Return what the largest step keeps beside the diffusion model: the field, and its rays."""
    most = max(rays for stage in config.stages for rays in rays_of_step(config, stage.from_step))
    graph = min(most, config.render_config.graph_rays)
    normals = config.weights.needs_normals
    ray = bytes_per_ray(config, with_normals=normals)
    again = bytes_per_ray(config, with_normals=normals, recomputed=True)
    return field_bytes(config) + graph * ray + most * again
