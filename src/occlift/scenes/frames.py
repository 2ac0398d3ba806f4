"""Key frames: the images, the lidar sweep and the annotated boxes of one moment, whatever data set they come from.

Every sensor fires at its own time and with it has its own ego pose. `ego` without a time means the frame in which
labels and predictions of the key frame are given (`KeyFrame.global_from_ego`); the ego frame at the time of an image is
`ego_at_image`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8

from occlift.errors import ConfigError, DataError
from occlift.geometry.intrinsics import fault_of_intrinsics
from occlift.geometry.transforms import inverse

if TYPE_CHECKING:
    from occlift.geometry.lenses import Lens
    from occlift.scenes.sources import ImageSource, LidarSource


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraImage:
    """One image of a key frame with its calibration and pose.

    Attributes:
        camera: name of the camera, such as "CAM_FRONT".
        key: name of the image that is unique in the data set.
        timestamp_us: time of the exposure.
        height: of the image, pixels.
        width: of the image, pixels.
        intrinsics_px: 3×3 pinhole matrix for an image of that size; pixel centres at + 0.5.
        distortion: how the lens departs from that pinhole; None where it does not. Open such a data set as
            `occlift.datasets.rectified.Rectified(data)`: everything else works with pinholes, and reads
            `pinhole_intrinsics_px`.
        ego_at_image_from_camera: mounting of the camera, 4×4.
        global_from_ego_at_image: ego pose at the time of the image, 4×4.
        source: reads the pixels; not opened before `read` is called.

    >>> import numpy as np
    >>> from occlift.scenes.sources import ImageArray
    >>> intrinsics_px = np.array([[100.0, 0, 64], [0, 100, 32], [0, 0, 1]])
    >>> image = CameraImage(
    ...     camera="front", key="front-0", timestamp_us=0, height=64, width=128, intrinsics_px=intrinsics_px,
    ...     ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
    ...     source=ImageArray(np.zeros((64, 128, 3), np.uint8)),
    ... )
    >>> image.read().shape
    (64, 128, 3)
    """

    camera: str
    key: str
    timestamp_us: int
    height: int
    width: int
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_at_image_from_camera: Float[np.ndarray, "4 4"]
    global_from_ego_at_image: Float[np.ndarray, "4 4"]
    source: ImageSource
    distortion: Lens | None = None

    @property
    def pinhole_intrinsics_px(self) -> Float[np.ndarray, "3 3"]:
        """`intrinsics_px`, for whoever takes the image for that of a pinhole.

        Raises:
            ConfigError: the lens distorts.
            DataError: they are none: not finite, or focal lengths that no camera has.
        """
        if self.distortion is not None:
            raise ConfigError(
                f"{self.source.name}: camera {self.camera} is distorted ({self.distortion.model}), and a pinhole is "
                "needed here; open the data set as occlift.datasets.rectified.Rectified(data)"
            )
        if fault := fault_of_intrinsics(self.intrinsics_px, self.height, self.width):
            raise DataError(f"{self.source.name}: the intrinsics of camera {self.camera}: {fault}")
        return self.intrinsics_px

    @property
    def global_from_camera(self) -> Float[np.ndarray, "4 4"]:
        return self.global_from_ego_at_image @ self.ego_at_image_from_camera

    @property
    def stem(self) -> str:
        """Name for files that belong to the image: that of its own file without the suffix, else `key`."""
        return self.source.stem or self.key

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        """The image as RGB.

        Raises:
            DataError: the file is missing or damaged, or has another size than `height` × `width`.
        """
        image = self.source.read()
        self._check_size("image", image.shape)
        return image

    def valid(self) -> Bool[np.ndarray, "height width"] | None:
        """Which pixels show the world, as `ImageSource.valid`; None: all of them.

        Raises:
            DataError: the mask is missing or damaged, or has another size than `height` × `width`.
        """
        valid = self.source.valid()
        if valid is not None:
            self._check_size("mask of valid pixels", valid.shape)
        return valid

    def _check_size(self, what: str, shape: tuple[int, ...]) -> None:
        if shape[:2] != (self.height, self.width):
            raise DataError(
                f"{self.source.name}: the {what} has {shape[0]}×{shape[1]} pixels (height × width), the data set says "
                f"{self.height}×{self.width}, and its intrinsics are for that size; the two come from different "
                "data, or one of them was turned by the EXIF orientation, which turns no pixels here"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LidarSweep:
    """One sweep of the lidar.

    Attributes:
        key: name of the sweep that is unique in the data set.
        timestamp_us: time of the sweep.
        ego_from_lidar: mounting of the lidar, 4×4: to the ego frame at the time of the sweep.
        global_from_ego: ego pose at the time of the sweep, 4×4; it may differ from that of the key frame.
        source: reads the points; not opened before.
    """

    key: str
    timestamp_us: int
    ego_from_lidar: Float[np.ndarray, "4 4"]
    global_from_ego: Float[np.ndarray, "4 4"]
    source: LidarSource

    @property
    def global_from_lidar(self) -> Float[np.ndarray, "4 4"]:
        return self.global_from_ego @ self.ego_from_lidar


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyFrame:
    """One moment of a scene.

    Attributes:
        token: name of the key frame that is unique in the data set.
        scene: name of the scene.
        index: position among the key frames of the scene, from 0.
        timestamp_us: time of the key frame.
        global_from_ego: pose of the ego frame in which labels and predictions of this key frame are given, 4×4.
        cameras: images, in the order of the data set's cameras; cameras without an image at this moment are left out.
        lidar: sweep of the lidar; None where there is none.

    Raises:
        DataError: a camera has no name, or two images are of cameras of one name.

    >>> import numpy as np
    >>> frame = KeyFrame(token="a", scene="s", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=())
    >>> frame.lidar is None
    True
    """

    token: str
    scene: str
    index: int
    timestamp_us: int
    global_from_ego: Float[np.ndarray, "4 4"]
    cameras: tuple[CameraImage, ...]
    lidar: LidarSweep | None = None

    def __post_init__(self) -> None:
        names = [image.camera for image in self.cameras]
        if "" in names or len(set(names)) < len(names):
            raise DataError(
                f"key frame {self.token} ({self.scene}): the cameras of its images are called "
                f"{', '.join(map(repr, names))}; expected names, each once"
            )

    def ego_from_camera(self, camera: CameraImage) -> Float[np.ndarray, "4 4"]:
        """From a camera to the ego frame of the key frame, through the global frame and both ego poses."""
        ego_from_global = inverse(self.global_from_ego)
        return ego_from_global @ camera.global_from_camera

    def ego_from_lidar(self, sweep: LidarSweep) -> Float[np.ndarray, "4 4"]:
        """From the lidar of a sweep, its own or one of another time, to the ego frame of the key frame."""
        if np.array_equal(sweep.global_from_ego, self.global_from_ego):
            # Through the global frame, which may be kilometres away, it is the same but for rounding.
            return sweep.ego_from_lidar
        ego_from_global = inverse(self.global_from_ego)
        return ego_from_global @ sweep.global_from_ego @ sweep.ego_from_lidar

    def lidar_sweep(self) -> LidarSweep:
        """The sweep, where one is needed.

        Raises:
            DataError: the key frame has none.
        """
        if self.lidar is None:
            raise DataError(f"key frame {self.token} ({self.scene}) has no lidar sweep, which is needed here")
        return self.lidar


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxAnnotation:
    """An annotated object of a key frame.

    Attributes:
        instance: name of the object, the same in all key frames that show it.
        category: name of its category in the words of the data set.
        size_lwh_m: length (x), width (y) and height (z), metres.
        global_from_box: 4×4; the box frame has its origin at the centre, x along the length.
        visibility: upper bound of the fraction of the object that the cameras see, 0..1; None where nothing is known.
        num_lidar_points: number of lidar points inside the box as the data set states it; None where it does not.
    """

    instance: str
    category: str
    size_lwh_m: tuple[float, float, float]
    global_from_box: Float[np.ndarray, "4 4"]
    visibility: float | None = None
    num_lidar_points: int | None = None
