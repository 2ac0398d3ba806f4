"""How labels are made: everything that they depend on, besides the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from occlift.errors import ConfigError
from occlift.label_space import Taxonomy
from occlift.labels.decide import DecisionConfig, Fusion
from occlift.labels.fuse import Moving, WindowPolicy
from occlift.labels.view import default_free_stride

# Part of every digest; goes up when the same configuration would give other labels.
_ALGORITHMS: Final[Mapping[Fusion, int]] = {"votes": 2, "surface": 3}

Outside = Literal["drop", "clamp"]
"""What becomes of points outside of the grid: left out, or counted in the voxel of its border that is nearest."""

Outliers = Literal["keep", "drop"]
"""What becomes of points that lie apart from the others of their key frame (`occlift.labels.outliers`)."""

UNRECORDED: Final = {"outside": "drop", "outliers": "keep"}
"""Settings that are recorded only where they differ from this, so that labels made before there was a choice go on."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labels are made.

    Attributes:
        semantics: teacher of classes; `occlift teachers` lists them. Class maps in files hold the ids of the label
            space.
        semantics_options: options of this teacher, as name=value.
        depth: teacher of depth.
        depth_options: options of this teacher, as name=value.
        frames: number of key frames fused into one label.
        window: choice of these key frames: around the current one (centred), it and those before (past), or all of the
            scene.
        moving: treatment of moving classes in other key frames: left out (drop), fused, which leaves ghosts (keep),
            fused where they stand still, or carried along by boxes.
        still_frames: number of key frames in which a voxel must show a moving class, for moving=still.
        outliers: treatment of points that are further from their neighbours than is usual in the cloud of their key
            frame: fused like all others (keep), or left out (drop), which takes most from far away.
        outside: treatment of points outside of the grid: left out (drop), or counted in the voxel of its border that is
            nearest (clamp), for fusion=votes.
        stride: number N; every N-th pixel of every N-th row votes.
        free_stride: number N; every N-th pixel of every N-th row casts a ray; None: about 4,000 rays an image.
        min_score: score of the class below which a pixel is unknown.
        min_confidence: confidence of the depth below which a pixel has none.
        decision: rules by which views become a label.
        confidence: a confidence written per voxel, beside its class; doubles the space on disk.
        seed: random seed of the teachers' errors (oracle).

    >>> LabelConfig(frames=5).window
    'centred'
    """

    semantics: str = "oracle:foundation"
    semantics_options: Mapping[str, str] = field(default_factory=dict)
    depth: str = "oracle:foundation"
    depth_options: Mapping[str, str] = field(default_factory=dict)
    frames: int = 13
    window: WindowPolicy = "centred"
    moving: Moving = "drop"
    still_frames: int = 6
    outliers: Outliers = "keep"
    outside: Outside = "drop"
    stride: int = 1
    free_stride: int | None = None
    min_score: float = 0.0
    min_confidence: float = 0.0
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    confidence: bool = False
    seed: int = 0

    @classmethod
    def easyocc(cls) -> LabelConfig:
        """The labels of EasyOcc (arXiv 2509.26087) as its authors make them, as far as is known.

        The current cloud and those of the 13 samples before it, without outliers, what is outside of the grid on its
        border, a majority of votes. Which source says what, and what is a guess, stands in docs/labels.md.

        >>> LabelConfig.easyocc().window, LabelConfig.easyocc().frames
        ('past', 14)
        """
        votes = DecisionConfig(fusion="votes")
        return cls(frames=14, window="past", outliers="drop", outside="clamp", decision=votes)

    def check(self, taxonomy: Taxonomy) -> None:
        """Raises ConfigError if a setting is out of range, or names a class that the taxonomy does not have."""
        self.decision.check(taxonomy)
        if self.outside == "clamp" and self.decision.fusion == "surface":
            raise ConfigError(
                "outside=clamp counts points on the border of the grid, without effect on fusion=surface; choose "
                "fusion=votes, or outside=drop"
            )
        for name in ("frames", "still_frames", "stride", "free_stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")

    def free_stride_of(self, height: int, width: int) -> int:
        """The stride of the pixels that cast rays, for maps of this size."""
        return self.free_stride or default_free_stride(height, width)

    def doubt_of_threshold(self, height: int, width: int) -> str | None:
        """Why `min_points` is far too low for votes of images of this size, in words; None if it is not.

        What is best grows with the square root of the number of pixels: 3 points for 96×176, about 35 for 900×1600.
        """
        rule = self.decision
        usual = round(3 * (height * width / self.stride**2 / (96 * 176)) ** 0.5)
        if rule.fusion != "votes" or rule.min_points * 3 >= usual:
            return None
        points = "1 point makes" if rule.min_points == 1 else f"{rule.min_points} points make"
        return (
            f"{points} a voxel occupied, which for images of {height}×{width} makes surfaces thick: about {usual} are "
            f"usual (--min-points {usual}), or use --fusion surface, which has no threshold"
        )

    def identity(self, semantics: Mapping[str, object], depth: Mapping[str, object]) -> dict[str, Any]:
        """Everything that labels depend on, as JSON values; `semantics` and `depth` are the teachers' own settings."""
        plain = {name: value for name, value in asdict(self).items() if (name, value) not in UNRECORDED.items()}
        # Infinity is no JSON.
        plain["decision"]["carve"] = None if plain["decision"]["carve"] == float("inf") else plain["decision"]["carve"]
        return {
            "algorithm": _ALGORITHMS[self.decision.fusion],
            **plain,
            "semantics_teacher": dict(semantics),
            "depth_teacher": dict(depth),
        }
