"""One small scene with exact depth, written in the formats of other people's tools."""

import gzip
import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from foreign_cameras import colmap_pose, opencv_pose, pytorch3d_numbers, re10k_numbers
from PIL import Image

from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject
from zeronvs.datasets.procedural import drawn_texture, random_cameras, random_scene

HEIGHT, WIDTH = 72, 96


@dataclass(frozen=True, eq=False)
class World:
    """Views of a procedural scene by a camera with an off-centre principal point."""

    views: list[View]

    @property
    def cameras(self) -> list[Camera]:
        return [view.camera for view in self.views]

    def pixels(self, index: int) -> np.ndarray:
        image = self.views[index].image.permute(1, 2, 0)
        return (image * 255).round().byte().numpy()

    def depth_z(self, index: int) -> np.ndarray:
        depth_z = self.views[index].depth_z
        assert depth_z is not None
        return depth_z.numpy()


def make_world(frames: int = 3, *, seed: int = 0, size_px: tuple[int, int] = (HEIGHT, WIDTH)):
    generator = seeded_generator(seed)
    textures = torch.stack([drawn_texture(generator, 64) for _ in range(6)])
    scene = random_scene(generator, textures)
    cameras = random_cameras(generator, frames, 0.8, size_px)
    cameras.intrinsics_px[:, 0, 0] *= 1.04
    cameras.intrinsics_px[:, 0, 2] -= 3.0
    cameras.intrinsics_px[:, 1, 2] += 2.0
    return World([scene.render(cameras[index]) for index in range(frames)])


def lens_numbers(camera: Camera) -> tuple[float, float, float, float]:
    matrix = camera.intrinsics_px
    return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_co3d(
    root: Path, world: World, *, sequence: str = "110_13051_23361", ndc: str = "ndc_isotropic"
) -> Path:
    """As CO3D's own tools write it: jgz, 16-bit depths, 1-bit depth masks, set lists."""
    category = root / "apple"
    frames, listed = [], []
    for index, camera in enumerate(world.cameras):
        kind = "short_side" if ndc == "ndc_isotropic" else "image_bounds"
        rotation, translation, focal, principal = pytorch3d_numbers(camera, kind)
        stem, base = f"frame{index + 1:06d}", f"apple/{sequence}"
        save_image(root / base / "images" / f"{stem}.png", world.pixels(index))
        stored = (world.depth_z(index) / 2.5).astype(np.float16).view(np.uint16)
        save_image(root / base / "depths" / f"{stem}.png.geometric.png", stored)
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[:10] = False
        (root / base / "depth_masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / base / "depth_masks" / f"{stem}.png")
        save_image(root / base / "masks" / f"{stem}.png", (mask * 255).astype(np.uint8))
        path = f"{base}/images/{stem}.png"
        listed.append([sequence, index + 1, path])
        frames.append(
            {
                "sequence_name": sequence,
                "frame_number": index + 1,
                "frame_timestamp": 0.1 * index,
                "image": {"path": path, "size": [HEIGHT, WIDTH]},
                "depth": {
                    "path": f"{base}/depths/{stem}.png.geometric.png",
                    "scale_adjustment": 2.5,
                    "mask_path": f"{base}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"{base}/masks/{stem}.png", "mass": 5952.0},
                "viewpoint": {
                    "R": rotation.tolist(),
                    "T": translation.tolist(),
                    "focal_length": focal.tolist(),
                    "principal_point": principal.tolist(),
                    "intrinsics_format": ndc,
                },
                "meta": {"frame_type": "train_known"},
            }
        )
    with gzip.open(category / "frame_annotations.jgz", "wt", encoding="utf8") as handle:
        json.dump(frames, handle)
    with gzip.open(category / "sequence_annotations.jgz", "wt", encoding="utf8") as handle:
        json.dump([{"sequence_name": sequence, "category": "apple", "video": None}], handle)
    (category / "set_lists").mkdir(exist_ok=True)
    lists = {"train": listed[:-1], "val": listed[-1:], "test": []}
    (category / "set_lists" / "set_lists_fewview_dev.json").write_text(json.dumps(lists))
    return root


def re10k_rows(world: World) -> list[list[float]]:
    rows = []
    for camera in world.cameras:
        numbers, pose = re10k_numbers(camera)
        rows.append([*numbers.tolist(), 0.0, 0.0, *pose.flatten().tolist()])
    return rows


def write_re10k(
    root: Path, world: World, *, clip: str = "0bf152ef84195293", split: str = "train"
) -> list[int]:
    """The text file of a clip and its frames, named by time stamp; return the stamps."""
    stamps = [52_553_000 + 133_467 * index for index in range(len(world.views))]
    lines = ["https://www.youtube.com/watch?v=abcdefghijk"]
    for stamp, row in zip(stamps, re10k_rows(world), strict=True):
        lines.append(" ".join([str(stamp), *(f"{value:.9f}" for value in row)]))
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / split / f"{clip}.txt").write_text("\n".join(lines) + "\n")
    for index, stamp in enumerate(stamps):
        save_image(root / "frames" / clip / f"{stamp}.png", world.pixels(index))
    return stamps


def jpeg_tensor(pixels: np.ndarray) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=98)
    return torch.tensor(np.frombuffer(buffer.getvalue(), np.uint8).copy())


def write_pixelsplat(root: Path, world: World, keys: list[str]) -> Path:
    """A chunk with one clip a key, and its index."""
    (root / "train").mkdir(parents=True)
    clips = [
        {
            "url": "https://www.youtube.com/watch?v=abcdefghijk",
            "timestamps": torch.arange(len(world.views)) * 33_367,
            "cameras": torch.tensor(re10k_rows(world), dtype=torch.float32),
            "key": key,
            "images": [jpeg_tensor(world.pixels(k)) for k in range(len(world.views))],
        }
        for key in keys
    ]
    path = root / "train" / "000000.torch"
    torch.save(clips, path)
    (root / "train" / "index.json").write_text(json.dumps(dict.fromkeys(keys, path.name)))
    return path


def colmap_points(world: World) -> tuple[np.ndarray, list[dict[int, int]]]:
    """Points on the surfaces, and which of them each image sees (point index: observation)."""
    points = unproject(world.views[0])[8:-8:6, 8:-8:6].reshape(-1, 3)
    seen = []
    for view in world.views:
        uv, depth_z = project(points, view.camera)
        column, row = uv[:, 0].long(), uv[:, 1].long()
        inside = (depth_z > 0) & (uv[:, 0] >= 0) & (uv[:, 1] >= 0)
        inside &= (column < WIDTH) & (row < HEIGHT)
        assert view.depth_z is not None
        surface = view.depth_z[row.clamp(0, HEIGHT - 1), column.clamp(0, WIDTH - 1)]
        visible = inside & ((depth_z / surface - 1).abs() < 0.02)
        numbers = torch.nonzero(visible)[:, 0].tolist()
        seen.append({number: place for place, number in enumerate(numbers)})
    return points.numpy(), seen


def write_colmap(root: Path, world: World, *, binary: bool, model: str = "PINHOLE") -> Path:
    """A sparse model as COLMAP writes it, and its images."""
    folder = root / "sparse" / "0"
    folder.mkdir(parents=True)
    points, seen = colmap_points(world)
    fx, fy, cx, cy = lens_numbers(world.cameras[0])
    numbers = {"PINHOLE": (1, [fx, fy, cx, cy]), "OPENCV": (4, [fx, fy, cx, cy, 0, 0, 0, 0])}[model]
    images = []
    for index, camera in enumerate(world.cameras):
        save_image(root / "images" / f"{index:04d}.png", world.pixels(index))
        qvec, tvec = colmap_pose(camera.camera_to_world.double())
        uv, _ = project(torch.from_numpy(points), camera)
        observed = [(*uv[number].tolist(), number + 1) for number in seen[index]]
        observed.append((1.5, 2.5, -1))  # a feature that became no point
        images.append((index + 1, [*qvec.tolist(), *tvec.tolist()], f"{index:04d}.png", observed))
    tracks = [[(i + 1, s[n]) for i, s in enumerate(seen) if n in s] for n in range(len(points))]
    write = _write_binary if binary else _write_text
    write(folder, model, numbers, images, points, tracks)
    return root


def _write_binary(folder, model, numbers, images, points, tracks) -> None:
    with (folder / "cameras.bin").open("wb") as handle:
        handle.write(struct.pack("<Q", 1))
        handle.write(struct.pack("<IiQQ", 1, numbers[0], WIDTH, HEIGHT))
        handle.write(struct.pack(f"<{len(numbers[1])}d", *numbers[1]))
    with (folder / "images.bin").open("wb") as handle:
        handle.write(struct.pack("<Q", len(images)))
        for number, pose, name, observed in images:
            handle.write(struct.pack("<I7dI", number, *pose, 1))
            handle.write(name.encode() + b"\0" + struct.pack("<Q", len(observed)))
            for u, v, point in observed:
                handle.write(struct.pack("<2dQ", u, v, point if point >= 0 else 2**64 - 1))
    with (folder / "points3D.bin").open("wb") as handle:
        handle.write(struct.pack("<Q", len(points)))
        for number, (point, track) in enumerate(zip(points, tracks, strict=True), 1):
            handle.write(struct.pack("<Q3d3Bd", number, *map(float, point), 9, 9, 9, 0.3))
            handle.write(struct.pack("<Q", len(track)))
            for pair in track:
                handle.write(struct.pack("<II", *pair))


def _write_text(folder, model, numbers, images, points, tracks) -> None:
    said = " ".join(str(value) for value in numbers[1])
    (folder / "cameras.txt").write_text(
        "# Camera list with one line of data per camera:\n"
        "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n# Number of cameras: 1\n"
        f"1 {model} {WIDTH} {HEIGHT} {said}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    for number, pose, name, observed in images:
        lines.append(" ".join([str(number), *(str(value) for value in pose), "1", name]))
        lines.append(" ".join(f"{u} {v} {point}" for u, v, point in observed))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list with one line of data per point:"]
    for number, (point, track) in enumerate(zip(points, tracks, strict=True), 1):
        said = " ".join(f"{image} {place}" for image, place in track)
        lines.append(f"{number} {point[0]} {point[1]} {point[2]} 9 9 9 0.3 {said}")
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_nerfstudio(root: Path, world: World, **changes) -> Path:
    """`transforms.json` with shared intrinsics, images, and depth in millimetres."""
    fx, fy, cx, cy = lens_numbers(world.cameras[0])
    frames = []
    for index, camera in enumerate(world.cameras):
        name = f"images/frame_{index + 1:05d}.png"
        save_image(root / name, world.pixels(index))
        depth = f"depth/frame_{index + 1:05d}.png"
        save_image(root / depth, (world.depth_z(index) * 1000).round().astype(np.uint16))
        pose = camera.camera_to_world.tolist()
        frames.append({"file_path": name, "transform_matrix": pose, "depth_file_path": depth})
    content = {
        "camera_model": "OPENCV",
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "applied_transform": [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]],
        "frames": frames,
    }
    content = {name: value for name, value in (content | changes).items() if value is not None}
    (root / "transforms.json").write_text(json.dumps(content))
    return root


def write_posed(root: Path, world: World) -> Path:
    """`scene.json` with OpenCV poses, and depth in five-thousandths of a scene unit."""
    frames = []
    for index, camera in enumerate(world.cameras):
        fx, fy, cx, cy = lens_numbers(camera)
        save_image(root / f"{index:04d}.png", world.pixels(index))
        depth = (world.depth_z(index) * 5e3).round().astype(np.uint16)
        save_image(root / f"{index:04d}_depth.png", depth)
        pose = opencv_pose(camera.camera_to_world)[:3].tolist()
        numbers = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "w": WIDTH, "h": HEIGHT, "c2w": pose}
        frames.append({"file": f"{index:04d}.png", **numbers})
    content = {"frames": frames, "depth_png_units_per_scene_unit": 5e3}
    (root / "scene.json").write_text(json.dumps(content))
    return root


def assert_same_camera(found: Camera, wanted: Camera, *, unit: bool = False) -> None:
    """Compare a camera read from a file; `unit`: it is of the unit square."""
    torch.testing.assert_close(found.camera_to_world, wanted.camera_to_world, atol=2e-5, rtol=1e-5)
    if unit:
        found = found.resized(*wanted.image_size_px)
    assert found.image_size_px == wanted.image_size_px
    torch.testing.assert_close(found.intrinsics_px, wanted.intrinsics_px, atol=1e-3, rtol=1e-5)


def fov_of_short_side(camera: Camera) -> float:
    """Return the field of view of the largest centred square about the principal point."""
    fx, fy, cx, cy = lens_numbers(camera)
    height, width = camera.image_size_px
    return 2 * math.atan(min(min(cx, width - cx) / fx, min(cy, height - cy) / fy))


def write_camera_path(path: Path, cameras: Camera) -> None:
    """Write cameras as nerfstudio's viewer saves them, except for its keyframes."""
    height_px, width_px = cameras.image_size_px
    frames = [
        {
            "camera_to_world": pose.flatten().tolist(),
            "fov": math.degrees(fov_y_rad),
            "aspect": width_px / height_px,
        }
        for pose, fov_y_rad in zip(cameras.camera_to_world, cameras.fov_y_rad, strict=True)
    ]
    content = {
        "camera_type": "perspective",
        "render_height": height_px,
        "render_width": width_px,
        "fps": 24,
        "seconds": len(cameras) / 24,
        "smoothness_value": 0,
        "is_cycle": False,
        "crop": None,
        "keyframes": [],
        "camera_path": frames,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
