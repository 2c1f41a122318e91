"""Textured triangles as a binary glTF 2.0 file (.glb), with the textures inside.

The textures hold the photograph's light already, so the file asks viewers not to light them again
(KHR_materials_unlit). glTF wants y up: our x, y, z is written as x, z, -y.
"""

import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from zeronvs._core.files import write_bytes
from zeronvs.cameras.conventions import world_axes
from zeronvs.formats.video import to_bytes

UNSIGNED_SHORT, FLOAT = 5123, 5126
_UNSIGNED_INT = 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_CLAMP_TO_EDGE = 33071
JPEG_QUALITY = 88
"""Quality of the textures, 1 to 100."""


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """Triangles in our world with an image on them."""

    vertices: Float[Tensor, "v 3"]
    """World coordinates, scene units."""
    faces: Int64[Tensor, "f 3"]
    """Rows of `vertices`, counter-clockwise seen from the front."""
    uv: Float[Tensor, "v 2"]
    """Place in the texture, in [0, 1]; v runs down."""
    texture: Float[Tensor, "3 h w"]
    """sRGB in [0, 1]."""


def write_glb(path: Path, meshes: Sequence[TexturedMesh]) -> None:
    """Write meshes as one .glb, whole or not at all; each has a material and a JPEG of its own."""
    file = GlbBuffer()
    primitives, materials = [], []
    for index, mesh in enumerate(meshes):
        position = (mesh.vertices.float() @ world_axes("y-up").mT).numpy()
        uv = mesh.uv.float().numpy().astype("<f4")
        short = len(position) < 65535
        faces = mesh.faces.numpy().astype("<u2" if short else "<u4").reshape(-1)
        attributes = {
            "POSITION": file.add_positions(position),
            "TEXCOORD_0": file.add(uv, "VEC2", FLOAT),
        }
        indices = file.add_indices(faces, UNSIGNED_SHORT if short else _UNSIGNED_INT)
        primitives.append({"attributes": attributes, "indices": indices, "material": index})
        image = file.add_view(_jpeg(mesh.texture))
        file.images.append({"bufferView": image, "mimeType": "image/jpeg"})
        materials.append(
            {
                "doubleSided": True,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": index},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 1.0,
                },
                "extensions": {"KHR_materials_unlit": {}},
            }
        )
    tree = {
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "scene"}],
        "meshes": [{"primitives": primitives}],
        "materials": materials,
        "textures": [{"source": index, "sampler": 0} for index in range(len(meshes))],
        "samplers": [{"wrapS": _CLAMP_TO_EDGE, "wrapT": _CLAMP_TO_EDGE}],
        "images": file.images,
    }
    write_container(path, tree, file)


class GlbBuffer:
    """The binary part of a file, and what describes it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def add(self, values: np.ndarray, kind: str, component: int, **described: Any) -> int:
        """Append what a vertex has, one row each; return the accessor."""
        return self._add(values, _ARRAY_BUFFER, kind, component, **described)

    def add_indices(self, values: np.ndarray, component: int) -> int:
        """Append the vertices of triangles; return the accessor."""
        return self._add(values, _ELEMENT_ARRAY_BUFFER, "SCALAR", component)

    def add_positions(self, points: np.ndarray) -> int:
        """Append points as float32, with the box that glTF wants of them; return the accessor."""
        points = points.astype("<f4")
        box = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
        return self.add(points, "VEC3", FLOAT, **box)

    def _add(
        self, values: np.ndarray, target: int, kind: str, component: int, **described: Any
    ) -> int:
        view = self.add_view(values.tobytes(), target=target)
        described |= {"componentType": component, "count": len(values), "type": kind}
        self.accessors.append({"bufferView": view, **described})
        return len(self.accessors) - 1

    def add_view(self, content: bytes, **described: int) -> int:
        """Append bytes at a multiple of four; return their view."""
        described |= {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(content)}
        self.views.append(described)
        self.content += content + bytes(-len(content) % 4)
        return len(self.views) - 1


def _jpeg(image: Float[Tensor, "3 h w"]) -> bytes:
    pixels = Image.fromarray(to_bytes(image).permute(1, 2, 0).contiguous().numpy())
    with io.BytesIO() as file:
        pixels.save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def write_container(path: Path, tree: dict[str, Any], file: GlbBuffer) -> None:
    """Write header, JSON chunk and binary chunk (glTF 2.0, section 4.4), whole or not at all.

    Args:
        path: Where to.
        tree: Scenes, nodes, meshes and so on; the parts that describe the buffer are added.
        file: The binary part.
    """
    tree = {
        "asset": {"version": "2.0", "generator": "zeronvs"},
        **tree,
        "accessors": file.accessors,
        "bufferViews": file.views,
        "buffers": [{"byteLength": len(file.content)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(file.content), b"BIN\0") + bytes(file.content)
    write_bytes(path, struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
