"""The field `camera_distortion` of `calibrated_sensor`, which data sets in nuScenes' format may have.

Images of nuScenes are undistorted and it has no such field. Accepted are

- nothing, `null`, `[]` or zeros: no distortion;
- 5 or 8 numbers in OpenCV's order, k1, k2, p1, p2, k3 (as in Tier IV's T4 format) and k4, k5, k6;
- an object with `model` and the parameters of one of our lenses, as `lens_from_dict` takes it.

Other counts are refused: 4 numbers may mean k1, k2, p1, p2 or those of a fisheye.
"""

from __future__ import annotations

from typing import Any, Final

from occlift.errors import ConfigError
from occlift.geometry.lenses import Lens, lens_from_dict

_OPENCV_ORDER: Final = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


def lens_of(value: list[float] | dict[str, Any] | None) -> Lens | None:
    """The lens that the field describes; None where nothing is distorted.

    Raises:
        ConfigError: it describes none.

    >>> lens_of([0.0] * 5) is None
    True
    >>> lens_of([-0.3, 0.1, 0.0, 0.0, 0.02]).k3
    0.02
    """
    if isinstance(value, dict):
        return lens_from_dict(value)
    if not value or not any(value):
        return None
    if len(value) not in (5, 8):
        raise ConfigError(
            f"got {len(value)} numbers; expected 5 or 8 in OpenCV's order ({', '.join(_OPENCV_ORDER)}), or an object "
            'such as {"model": "kannala_brandt", "k1": 0.1, "k2": 0, "k3": 0, "k4": 0}'
        )
    return lens_from_dict({"model": "brown_conrady", **dict(zip(_OPENCV_ORDER, value, strict=False))})
