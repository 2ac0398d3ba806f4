"""What a town is made from."""

from __future__ import annotations

from dataclasses import dataclass

from occlift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TownConfig:
    """What to build.

    Attributes:
        scenes: number of drives, each through a quarter of its own.
        frames: number of key frames per scene, at 2 Hz.
        seed: random seed of everything.
        image_height: height of the images, pixels.
        image_width: width of the images, pixels; the field of view is cropped in height to the aspect ratio.
        maps: class, depth and instance maps written beside the images, for the oracle teacher.
        static: a town in which nothing but the ego vehicle moves.
        sweeps: camera images 1/12 s before and after those of the key frames, as cameras at 12 Hz record them.
    """

    scenes: int = 10
    frames: int = 40
    seed: int = 0
    image_height: int = 224
    image_width: int = 400
    maps: bool = False
    static: bool = False
    sweeps: bool = False

    def __post_init__(self) -> None:
        for name in ("scenes", "frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a town needs {name} ≥ 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"the seed must not be negative, got {self.seed}")
        if min(self.image_height, self.image_width) < 16:
            raise ConfigError(
                f"images must be at least 16 pixels high and wide, got {self.image_height} × {self.image_width}"
            )

    def scene_name(self, number: int) -> str:
        return f"town-{self.seed:04d}-{number:04d}"
