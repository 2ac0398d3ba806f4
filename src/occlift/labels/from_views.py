"""A label from arrays alone: views with classes, depth and poses, without a data set and without files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Bool, Float, UInt8

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.decide import Decision, DecisionConfig, decide, decide_surface
from occlift.labels.files import OccupancyLabel
from occlift.labels.fuse import EVERYTHING, static_classes
from occlift.labels.surface import fuse_surface
from occlift.labels.view import View, clean_view, default_free_stride
from occlift.labels.visibility import label_of
from occlift.labels.vote import Tally


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedView:
    """One image as arrays: a class and a depth per pixel, and the camera, placed in the ego frame of the label.

    Attributes:
        class_id: class per pixel; `Taxonomy.free` (17 for Occ3D) is sky, 255 unknown.
        depth_m: metres along the optical axis, of the centre of the pixel; not finite or not positive: unknown.
        intrinsics_px: pinhole camera matrix for these maps; the centre of the first pixel is (0.5, 0.5).
        ego_from_camera: from the camera at its own time (x right, y down, z forward) to the ego frame of the label (x
            forward, y left, z up). For a view of another time the motion of the car in between is part of it.
        score: how sure the class of each pixel is; None: 1 everywhere.
        confidence: how sure the depth of each pixel is; None: 1 everywhere.
        valid: pixels that show the world: False outside of a lens's circle, or where the car sees itself. They are
            unknown, cast no ray, and do not count for `mask_camera`. None: all.
        current: whether the view is of the label's own time. Of others, what may move by itself is left out, and they
            do not count for `mask_camera`.

    Raises:
        ConfigError: an array has another shape or type than stated, or is no camera or no pose; the text names it.

    >>> view = PosedView(
    ...     class_id=np.full((4, 6), 4, np.uint8), depth_m=np.full((4, 6), 10.0, np.float32),
    ...     intrinsics_px=np.array([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]), ego_from_camera=np.eye(4),
    ... )
    >>> view.current
    True
    """

    class_id: UInt8[np.ndarray, "height width"]
    depth_m: Float[np.ndarray, "height width"]
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_from_camera: Float[np.ndarray, "4 4"]
    score: Float[np.ndarray, "height width"] | None = None
    confidence: Float[np.ndarray, "height width"] | None = None
    valid: Bool[np.ndarray, "height width"] | None = None
    current: bool = True

    def __post_init__(self) -> None:
        shape = self.class_id.shape
        if len(shape) != 2 or self.class_id.dtype.kind not in "ui":
            raise ConfigError(
                f"class_id is {self.class_id.dtype} of shape {shape}; expected integers [height, width], one class id "
                "per pixel (take the argmax of logits or one-hot maps first)"
            )
        for name in ("depth_m", "score", "confidence", "valid"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ConfigError(
                    f"{name} has the shape {array.shape} and class_id {shape}; expected one value per pixel of the "
                    "same image: resize one to the other (classes by nearest neighbour)"
                )
        if self.valid is not None and self.valid.dtype != np.bool_:
            raise ConfigError(f"valid is {self.valid.dtype}; expected booleans, True where a pixel shows the world")
        for name, wanted in (("intrinsics_px", (3, 3)), ("ego_from_camera", (4, 4))):
            array = getattr(self, name)
            if array.shape != wanted or not np.isfinite(array).all():
                raise ConfigError(f"{name} should be a finite {wanted[0]}×{wanted[1]} matrix, but is {array.tolist()}")
        rotation = self.ego_from_camera[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
            raise ConfigError(f"ego_from_camera has no rotation in its upper left 3×3, but {rotation.tolist()}")
        if self.intrinsics_px[0, 0] <= 0 or self.intrinsics_px[1, 1] <= 0:
            raise ConfigError(
                f"intrinsics_px has the focal lengths {self.intrinsics_px[0, 0]} and {self.intrinsics_px[1, 1]}; "
                "expected pixels above 0"
            )


def label_from_views(
    views: Sequence[PosedView],
    *,
    space: LabelSpace = OCC3D,
    decision: DecisionConfig | None = None,
    stride: int = 1,
    free_stride: int | None = None,
    min_score: float = 0.0,
    min_confidence: float = 0.0,
    confidence: bool = False,
) -> OccupancyLabel:
    """The occupancy label that some views give together.

    By the surface on which the views agree (`decide_surface`): occupied where it passes, free in front of it, unknown
    behind. Or, with `decision.fusion="votes"`, by EasyOcc's rule (arXiv 2509.26087): every pixel votes for its class in
    the voxel that its depth puts it in; a voxel with enough votes is occupied by the majority; what rays pass before
    they end is free; the rest is unknown.

    Args:
        views: of any cameras and times; their sizes may differ.
        space: grid, in the ego frame of the label, and classes.
        decision: how views become a label; None: `DecisionConfig()`.
        stride: N, to use every N-th pixel of every N-th row.
        free_stride: the same for pixels that cast rays; by default as many as make about 4,000 rays of an image.
        min_score: pixels whose class is less sure are unknown.
        min_confidence: pixels whose depth is less sure have none.
        confidence: whether the label says how sure each voxel is.

    Raises:
        ConfigError: there are no views, a class id is none of the space's, or a setting is out of range.

    >>> rows, columns = np.mgrid[:60, :80] + 0.5
    >>> forward = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    >>> depth_m = 1.5 / np.maximum((rows - 30) / 60, 0.01)  # a flat road, seen from 1.5 m above it
    >>> road = PosedView(
    ...     class_id=np.where(rows > 31, 11, 17).astype(np.uint8), depth_m=depth_m.astype(np.float32),
    ...     intrinsics_px=np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]]), ego_from_camera=forward,
    ... )
    >>> label = label_from_views([road])
    >>> label.semantics.shape, np.unique(label.semantics).tolist()
    ((200, 200, 16), [11, 17, 255])
    """
    taxonomy, decision = space.taxonomy, decision or DecisionConfig()
    if not views:
        raise ConfigError("there are no views; a label needs at least one")
    for name, value in (("stride", stride), ("free_stride", free_stride)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected 1 or more")
    decision.check(taxonomy)
    cleaned = []
    for number, view in enumerate(views):
        strange = (view.class_id > taxonomy.free) & (view.class_id != UNKNOWN)
        if strange.any() or (view.class_id.dtype.kind == "i" and view.class_id.min() < 0):
            raise ConfigError(
                f"views[{number}].class_id holds values from {view.class_id.min()} to {view.class_id.max()}; expected "
                f"0..{taxonomy.free - 1} ({', '.join(taxonomy.names)}), {taxonomy.free} for the sky, {UNKNOWN} for "
                "unknown: map other class lists to these first"
            )
        ones = np.ones(view.class_id.shape, np.float32)
        cleaned.append(
            clean_view(
                view.class_id.astype(np.uint8, copy=False),
                view.depth_m,
                view.intrinsics_px.astype(np.float64),
                view.ego_from_camera.astype(np.float64),
                score=ones if view.score is None else view.score,
                confidence=ones if view.confidence is None else view.confidence,
                valid=view.valid,
                stride=stride,
                free_stride=free_stride or default_free_stride(*view.class_id.shape),
                min_score=min_score,
                min_confidence=min_confidence,
                taxonomy=taxonomy,
            )
        )
    # The ego frame stands for the global one.
    posed = zip(cleaned, (v.global_from_camera for v in cleaned), (v.current for v in views), strict=True)
    if decision.fusion == "surface":
        decided = decide_by_surface(posed, space)
    else:
        tally = Tally(space.grid, classes=taxonomy.free)
        add_views(tally, posed, taxonomy)
        own = [clean for clean, view in zip(cleaned, views, strict=True) if view.current]
        decided = decide(tally.votes(points_per_ray=points_per_ray(own or cleaned)), decision, taxonomy)
    cameras = [(v.intrinsics_px, v.ego_from_camera, *v.class_id.shape, v.valid) for v in views if v.current]
    return label_of(decided, cameras, confidence=confidence, space=space)


def decide_by_surface(
    views: Iterable[tuple[View, Float[np.ndarray, "4 4"], bool]],
    space: LabelSpace,
    *,
    carried: Sequence[tuple[Float[np.ndarray, "_ 3"], UInt8[np.ndarray, " _"]]] = (),
) -> Decision:
    """The label that the surface gives on which views agree; arguments as of `fuse_surface`."""
    surface = fuse_surface(views, space.grid, space.taxonomy, carried=carried)
    return decide_surface(surface, space.taxonomy, voxel_size_m=min(space.grid.voxel_size_m))


def add_views(tally: Tally, views: Iterable[tuple[View, Float[np.ndarray, "4 4"], bool]], taxonomy: Taxonomy) -> None:
    """Counts the votes of views: each with the transform from its camera to the grid's frame, and whether what may move
    by itself votes too, as it does at the label's own time."""
    static = static_classes(taxonomy)
    for view, grid_from_camera, with_moving in views:
        tally.add_view(view, grid_from_camera, EVERYTHING if with_moving else static)


def points_per_ray(views: Sequence[View]) -> float:
    """How many pixels of some views show points for every pixel that casts a ray."""
    # Each ratio once: the mean of equal numbers may differ from them in the last bit.
    return fmean({(view.free_stride / view.stride) ** 2 for view in views})
