"""Teachers' maps on the disk, where the teacher `files` finds them again.

`<folder>/semantics/<scene>/<camera>/<image name>.npz` and the same below `<folder>/depth`: what the teacher `files`
reads with the options `root=FOLDER/semantics` and `root=FOLDER/depth`. Scores and confidences are not kept. A class map
of 900×1600 takes about 30 kB, a depth map of a network some 3 MB: this is why labels are made without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from occlift.runtime.files import sweep
from occlift.runtime.npz import write_npz
from occlift.scenes.frames import KeyFrame
from occlift.teachers.teacher import DepthMap, SemanticMap


@dataclass(frozen=True)
class MapFolder:
    """A folder of maps; each file is written atomically, so the same maps may be kept twice."""

    folder: Path

    def sweep(self) -> None:
        """Removes what killed processes left behind; nobody may be writing here."""
        for folder in self.folder.glob("*/*/*"):
            sweep(folder)

    def keep(self, frame: KeyFrame, semantics: Sequence[SemanticMap], depth: Sequence[DepthMap]) -> None:
        """Writes the maps of a key frame.

        Raises:
            OSError: a file cannot be written.
        """
        for image, class_map, depth_map in zip(frame.cameras, semantics, depth, strict=True):
            name = f"{frame.scene}/{image.camera}/{image.stem}.npz"
            write_npz(self.folder / "semantics" / name, {"semantics": class_map.class_id}, level=1)
            write_npz(self.folder / "depth" / name, {"depth_m": depth_map.depth_m}, level=1)
