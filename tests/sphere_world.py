"""A scene whose every view is known: a coloured sphere inside a large coloured ball."""

import math

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.rays import camera_rays
from zeronvs.cameras.view import View

ELEVATION_RAD = 0.3
FOV_Y_RAD = 0.8
SPHERE_RADIUS = 0.3
BALL_RADIUS = 3.0


def ring_cameras(azimuths_rad, size_px: int = 24) -> Camera:
    azimuth_rad = torch.as_tensor(azimuths_rad)
    poses = orbit_pose(
        azimuth_rad, torch.full_like(azimuth_rad, ELEVATION_RAD), torch.ones_like(azimuth_rad)
    )
    return Camera.from_fov(poses, FOV_Y_RAD, (size_px, size_px))


def sphere_views(camera: Camera) -> View:
    """Return exact views of a sphere coloured by direction, and of the ball around it."""
    rays = camera_rays(camera)
    depth, point = intersect_sphere(rays.origins, rays.directions, SPHERE_RADIUS)
    far_depth, far_point = intersect_sphere(rays.origins, rays.directions, BALL_RADIUS)
    hit = depth.isfinite()
    direction = torch.where(hit[..., None], point / SPHERE_RADIUS, far_point / BALL_RADIUS)
    color = 0.5 + 0.4 * torch.where(hit[..., None], direction, -0.5 * direction)
    depth_z = torch.where(hit, depth, far_depth) * rays.z_per_unit_distance
    return View(color.movedim(-1, -3), camera, depth_z)


def intersect_sphere(origins, directions, radius):
    """Return distance and point of the nearest hit in front; infinity where there is none."""
    middle = -(origins * directions).sum(-1)
    square = middle.square() - origins.square().sum(-1) + radius**2
    root = square.clamp(min=0).sqrt()
    near = torch.where(middle - root > 0, middle - root, middle + root)
    distance = torch.where(square > 0, near, torch.full_like(near, math.inf))
    return distance, origins + distance[..., None] * directions
