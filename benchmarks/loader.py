"""Training pairs a second on one core: the published way of loading, and ours, from local shards.

Makes shards of 455x256 frames in the published layout (or takes a folder of such), then measures in
turns, in one process:

    published way   int(0.025 n) pairs a scene of n frames; all metadata of the scene parsed, two
                    pictures and two depth maps decoded, cropped, collated as floats. Scenes wait
                    in memory: reading the tar is not counted
    streamed        the same with what the published loader has to do for it: the tar read whole
    ours            the same shards by index: two pictures decoded, no depth map
    ours, converted the same frames written as square JPEG

Run: python benchmarks/loader.py [--shards DIR] [--pictures DIR] [--scenes N] [--seconds S]
"""

import argparse
import importlib
import json
import platform
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.shards.images import ImageDecoder, centre_square, decode_depth
from zeronvs.shards.index import build_index
from zeronvs.shards.loader import PairLoader, PairLoaderConfig
from zeronvs.shards.writer import ShardScene, ShardWriter, encode_frame, read_shard

FRAMES, HEIGHT_PX, WIDTH_PX, BATCH, RATE = 100, 256, 455, 48, 0.025


def pictures(folder: Path | None, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield frames without end: photographs of a folder, or noise with the spectrum of nature."""
    paths = [] if folder is None else sorted(folder.rglob("0*[0-9].jpg"))
    while True:
        if paths:
            with Image.open(paths[int(rng.integers(len(paths)))]) as opened:
                picture = opened.convert("RGB")
            scale = max(WIDTH_PX / picture.width, HEIGHT_PX / picture.height)
            size = (round(picture.width * scale), round(picture.height * scale))
            pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
            yield np.ascontiguousarray(pixels[:HEIGHT_PX, :WIDTH_PX])
            continue
        down, right = np.fft.fftfreq(HEIGHT_PX)[:, None], np.fft.fftfreq(WIDTH_PX)
        amplitude = 1 / np.maximum(np.hypot(down, right), 1 / WIDTH_PX) ** 1.8
        phase = rng.normal(size=(3, HEIGHT_PX, WIDTH_PX)) + 1j * rng.normal(
            size=(3, HEIGHT_PX, WIDTH_PX)
        )
        planes = np.fft.ifft2(phase * amplitude).real
        grey, tint = planes[0], planes[1:]
        rgb = np.stack([grey, grey + 0.25 * tint[0], grey + 0.25 * tint[1]], axis=-1)
        rgb = (rgb - rgb.mean()) / rgb.std()
        yield np.clip(118 + 52 * rgb, 0, 255).astype(np.uint8)


def make_shards(folder: Path, scenes: int, source: Path | None) -> None:
    """Write scenes in the published form: PNG, sparse depth."""
    rng = np.random.default_rng(0)
    drawn = pictures(source, rng)
    with ShardWriter(folder, "bench", max_scenes_per_shard=2) as writer:
        for number in range(scenes):
            frames = []
            for k in range(FRAMES):
                angle = torch.tensor(0.02 * k)
                pose = orbit_pose(angle, torch.tensor(0.3), torch.tensor(2.0))
                camera = Camera.from_fov(pose, 0.8, (HEIGHT_PX, WIDTH_PX))
                known = rng.random((HEIGHT_PX, WIDTH_PX)) < 0.02
                depth = np.where(known, rng.uniform(1, 9, known.shape), 0).astype(np.float32)
                name = f"frame{k + 1:06d}"
                frames.append(
                    encode_frame(next(drawn), camera, depth, name=name, image_format="png")
                )
            writer.add(ShardScene(f"bench/scene{number}", tuple(frames)))


def convert(folder: Path, target: Path) -> None:
    """Write the shards of a folder again, as square JPEG."""
    with ShardWriter(target, "bench", max_scenes_per_shard=2) as writer:
        for path in sorted(folder.glob("*.tar")):
            for scene in read_shard(path, lambda damage: None):
                frames = []
                for k, frame in enumerate(scene.frames):
                    image, depth = scene.image(k).permute(1, 2, 0).numpy(), scene.depth_z(k)
                    frames.append(
                        encode_frame(
                            np.ascontiguousarray(image),
                            scene.camera(k),
                            None if depth is None else depth.numpy(),
                            name=frame.name,
                        )
                    )
                writer.add(ShardScene(scene.scene_id, tuple(frames)))


def published_way(folder: Path, *, streamed: bool) -> Iterator[int]:
    """Yield the number of pairs in each batch, loaded as the published loader does."""
    # The published loader decodes with pyspng; where it is missing, our decoder is about as fast.
    pyspng = importlib.import_module("pyspng") if find_spec("pyspng") else None
    rng, decoder = random.Random(0), ImageDecoder()
    waiting: list[tuple] = []
    items: list[dict] = []

    def read(path: Path) -> Iterator[dict[str, dict[str, bytes]]]:
        with tarfile.open(path, "r|") as tar:
            scene, last = {}, None
            for member in tar:
                stem, name = member.name.rsplit("/", 1)
                if last is not None and stem != last:
                    yield scene
                    scene = {}
                last = stem
                frame, _, kind = name.split(".")[0].partition("_")
                scene.setdefault(frame, {})[kind or "image"] = tar.extractfile(member).read()
            yield scene

    def scenes() -> Iterator[dict[str, dict[str, bytes]]]:
        paths = sorted(folder.glob("*.tar"))
        kept = [] if streamed else [scene for path in paths for scene in read(path)]
        while True:
            yield from read(rng.choice(paths)) if streamed else rng.sample(kept, len(kept))

    def picture(content: bytes) -> np.ndarray:
        if pyspng is None:
            square = decoder.square(content, "png", HEIGHT_PX) / 255.0
        else:
            square = centre_square(pyspng.load(content) / 255.0)
        return (square * 2 - 1).astype(np.float32)

    for scene in scenes():
        names = sorted(scene)
        metadata = [json.loads(scene[name]["metadata"]) for name in names]
        world_to_camera = [np.linalg.inv(np.array(entry["extrinsics"])) for entry in metadata]
        camera_to_world = np.linalg.inv(np.array(world_to_camera))
        for _ in range(int(RATE * len(names))):
            waiting.append((scene, camera_to_world, *rng.sample(range(len(names)), 2)))
        while len(waiting) > 50:
            pair, poses, i, j = waiting.pop(rng.randrange(len(waiting)))
            frames = sorted(pair)
            items.append(
                {
                    "image_target": picture(pair[frames[i]]["image"]),
                    "image_cond": picture(pair[frames[j]]["image"]),
                    "depth_target": decode_depth(pair[frames[i]]["depth"]),
                    "depth_cond": decode_depth(pair[frames[j]]["depth"]),
                    "target_cam2world": np.array(poses[i]),
                    "cond_cam2world": np.array(poses[j]),
                }
            )
            if len(items) == BATCH:
                batch = {
                    key: torch.stack([torch.from_numpy(item[key]) for item in items])
                    for key in items[0]
                }
                yield len(batch["image_cond"])
                items = []


def ours(folder: Path) -> Iterator[int]:
    """Yield the number of pairs in each batch of our loader, decoding in this process."""
    config = PairLoaderConfig(pairs_per_frame=RATE)
    for batch in PairLoader([(folder, 1.0)], config, batch=BATCH):
        yield len(batch)


def measure(sides: dict[str, Callable[[], Iterator[int]]], seconds: float) -> dict[str, float]:
    """Return pairs a second of CPU time: the median of turns that alternate between the sides."""
    running = {name: side() for name, side in sides.items()}
    for batches in running.values():
        next(batches)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(5):
        for name, batches in running.items():
            start, pairs = time.process_time(), 0
            while time.process_time() - start < seconds / 5:
                pairs += next(batches)
            rates[name].append(pairs / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=Path, help="a folder of shards of 256-pixel PNG frames")
    parser.add_argument("--pictures", type=Path, help="make the frames of these photographs")
    parser.add_argument("--scenes", type=int, default=4, help="scenes of 100 frames to make")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        same = options.shards or root / "png"
        if options.shards is None:
            make_shards(same, options.scenes, options.pictures)
        start = time.process_time()
        scenes = sum(len(build_index(path)) for path in sorted(same.glob("*.tar")))
        print(f"index of {scenes} scenes: {time.process_time() - start:.2f} s, once")
        convert(same, root / "jpg")
        sides: dict[str, Callable[[], Iterator[int]]] = {
            "published way": lambda: published_way(same, streamed=False),
            "published way, streamed": lambda: published_way(same, streamed=True),
            "ours, the same shards": lambda: ours(same),
            "ours, converted: square JPEG": lambda: ours(root / "jpg"),
        }
        rates = measure(sides, options.seconds)
        sizes = {
            folder: sum(p.stat().st_size for p in folder.glob("*.tar")) / scenes / FRAMES / 1e3
            for folder in (same, root / "jpg")
        }
    fast = ", ".join(name for name in ("pyspng", "simplejpeg") if find_spec(name)) or "none"
    print(f"kB a frame: {', '.join(f'{value:.0f}' for value in sizes.values())} (png, jpg)")
    print(f"python {platform.python_version()}, optional decoders: {fast}; one thread, CPU time")
    for name, rate in rates.items():
        print(f"{name:<46} {rate:8.0f} pairs/s {rate / rates['published way']:6.2f}x")


if __name__ == "__main__":
    main()
