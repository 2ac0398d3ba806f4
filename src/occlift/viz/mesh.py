"""A semantic volume as a mesh for viewers: the visible faces of its voxels in a binary glTF of some 100 kB.

The mesh is small because faces in a row that have one class become one rectangle; the voxels' edges come from a
texture that repeats once per voxel. It is unlit (KHR_materials_unlit), so that a class keeps its colour, and its
vertices are voxel corners as integers (KHR_mesh_quantization); the node's transform makes them metres.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.viz.canvas import class_palette

FACE_LIGHT = ((0.82, 0.88), (0.70, 0.76), (0.55, 1.0))
"""Brightness by axis and side (lower, upper) of a face."""

TEXTURE_PX = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Rectangles:
    """Axis-aligned rectangles that cover the visible faces of a volume.

    Attributes:
        corners: in voxels from the grid's lower corner, counter-clockwise seen from outside.
        spans: the corners again, as voxels along the rectangle's two sides (texture coordinates).
        class_id: class of the voxels.
        axis: 0, 1, 2: the normal's axis.
        side: 1 where the normal points along it, else 0.
    """

    corners: Int[np.ndarray, "n 4 3"]
    spans: Int[np.ndarray, "n 4 2"]
    class_id: UInt8[np.ndarray, "n"]
    axis: Int[np.ndarray, "n"]
    side: Int[np.ndarray, "n"]


def visible_rectangles(semantics: UInt8[np.ndarray, "x y z"], *, taxonomy: Taxonomy = OCC3D.taxonomy) -> Rectangles:
    """Faces between an occupied voxel and one that is not, or the outside; merged along rows of one class.

    The under sides of ground classes are left out: nothing is seen from there.
    """
    occupied = np.pad(semantics < taxonomy.free, 1)
    inner = occupied[1:-1, 1:-1, 1:-1]
    ground = taxonomy.table(taxonomy.ground)[semantics]
    parts = []
    for axis in range(3):
        # Rows run along `first`; first × second points along +axis.
        first, second = (axis + 1) % 3, (axis + 2) % 3
        unit_first, unit_second = np.eye(3, dtype=np.int64)[[first, second]]
        for side in (0, 1):
            neighbour = np.roll(occupied, 1 - 2 * side, axis=axis)[1:-1, 1:-1, 1:-1]
            shown = inner & ~neighbour
            if axis == 2 and side == 0:
                shown &= ~ground
            # With `first` as the last axis, voxels of a row follow one another.
            faces = np.argwhere(shown.transpose(axis, second, first))
            voxels = np.empty_like(faces)
            voxels[:, [axis, second, first]] = faces
            ids = semantics[tuple(voxels.T)]
            goes_on = np.zeros(len(voxels), dtype=bool)
            goes_on[1:] = (
                np.all(faces[1:, :2] == faces[:-1, :2], axis=1)
                & (faces[1:, 2] == faces[:-1, 2] + 1)
                & (ids[1:] == ids[:-1])
            )
            starts = np.flatnonzero(~goes_on)
            length = np.diff(np.append(starts, len(voxels)))
            along = length[:, None] * unit_first
            lower = voxels[starts] + side * np.eye(3, dtype=np.int64)[axis]
            zero = np.zeros_like(length)
            corners = np.stack((lower, lower + along, lower + along + unit_second, lower + unit_second), axis=1)
            spans = np.stack((zero, zero, length, zero, length, zero + 1, zero, zero + 1), -1).reshape(-1, 4, 2)
            if side == 0:
                corners, spans = corners[:, ::-1], spans[:, ::-1]
            parts.append((corners, spans, ids[starts], np.full(len(starts), axis), np.full(len(starts), side)))
    corners, spans, ids, axes, sides = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Rectangles(corners=corners, spans=spans, class_id=ids, axis=axes, side=sides)


def volume_glb(semantics: UInt8[np.ndarray, "x y z"], *, space: LabelSpace = OCC3D) -> bytes:
    """The occupied voxels of a volume as glTF 2.0 in one binary file, in metres of the grid's frame."""
    grid = space.grid
    grid.check_shape(semantics.shape, "the volume")
    faces = visible_rectangles(semantics, taxonomy=space.taxonomy)
    # The axes of a mesh in glTF are its file's own business: viewers that say "z up" get the grid's axes unchanged.
    node = {"translation": list(grid.lower_m), "scale": list(grid.voxel_size_m)}
    document: dict[str, object] = {
        "asset": {"version": "2.0", "generator": "occlift"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
    }
    if not len(faces.corners):
        return _binary(document, b"")

    # Four two-byte numbers per vertex: three coordinates, and one of padding to a multiple of four bytes.
    positions = np.zeros((len(faces.corners) * 4, 4), dtype="<u2")
    positions[:, :3] = faces.corners.reshape(-1, 3)
    light = np.asarray(FACE_LIGHT)[faces.axis, faces.side]
    srgb = class_palette(taxonomy=space.taxonomy)[faces.class_id] / 255.0 * light[:, None]
    # Vertex colours of glTF are linear.
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    colors = np.full((len(positions), 4), 65535, dtype="<u2")
    colors[:, :3] = np.round(linear * 65535).repeat(4, axis=0)
    spans = faces.spans.reshape(-1, 2).astype("<u2")
    quads = 4 * np.arange(len(faces.corners))[:, None]
    indices = (quads + np.array([0, 1, 2, 0, 2, 3])).astype("<u4")
    chunks = [positions.tobytes(), colors.tobytes(), spans.tobytes(), indices.tobytes(), _texture()]
    strides = [8, 8, 4, None, None]
    views, offset = [], 0
    for chunk, stride in zip(chunks, strides, strict=True):
        views.append(
            {"buffer": 0, "byteOffset": offset, "byteLength": len(chunk)} | ({"byteStride": stride} if stride else {})
        )
        offset += len(chunk)
    unsigned_short, unsigned_int = 5123, 5125
    count = len(positions)
    node["mesh"] = 0  # type: ignore[assignment]
    document |= {
        "extensionsUsed": ["KHR_materials_unlit", "KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "COLOR_0": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
                ]
            }
        ],
        "materials": [
            {
                "extensions": {"KHR_materials_unlit": {}},
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0},
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        # Linear within and between reduced copies: edges fade with distance instead of flickering. 10497: repeat.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": [
            {
                "bufferView": 0,
                "componentType": unsigned_short,
                "count": count,
                "type": "VEC3",
                "min": positions[:, :3].min(axis=0).tolist(),
                "max": positions[:, :3].max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": unsigned_short, "normalized": True, "count": count, "type": "VEC4"},
            {"bufferView": 2, "componentType": unsigned_short, "count": count, "type": "VEC2"},
            {"bufferView": 3, "componentType": unsigned_int, "count": indices.size, "type": "SCALAR"},
        ],
    }
    return _binary(document, b"".join(chunks))


def _texture() -> bytes:
    """One voxel's face: white with a slightly darker edge, as PNG, padded to four bytes."""
    face = np.full((TEXTURE_PX, TEXTURE_PX), 255, dtype=np.uint8)
    face[[0, -1], :] = face[:, [0, -1]] = 196
    buffer = io.BytesIO()
    Image.fromarray(face).convert("RGB").save(buffer, "PNG")
    png = buffer.getvalue()
    return png + b"\0" * (-len(png) % 4)


def _binary(document: dict[str, object], payload: bytes) -> bytes:
    """A .glb file: header, the document, and the buffer if there is one."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = [(b"JSON", text)] + ([(b"BIN\0", payload)] if payload else [])
    body = b"".join(len(chunk).to_bytes(4, "little") + kind + chunk for kind, chunk in chunks)
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(body)).to_bytes(4, "little") + body
