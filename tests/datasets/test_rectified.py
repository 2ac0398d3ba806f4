"""Virtual pinhole cameras: their pictures, masks and truth against what a pinhole in their place would see, and labels
of a town seen through each lens against those of the pinhole town.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from lenses import HEIGHT, LENSES, WIDTH, Town, TracedTown, intrinsics
from scipy.ndimage import binary_dilation

from occlift import CameraImage, KeyFrame, LabelConfig, OccupancyLabel, generate_labels, open_dataset, read_label
from occlift.datasets.frames.writer import write_frames
from occlift.datasets.rectified import Rectified, RectifiedImage, rectify_if_distorted
from occlift.errors import ConfigError, DataError
from occlift.geometry.lens_projection import project, unproject
from occlift.geometry.lenses import BrownConrady, KannalaBrandt, Lens
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import FREE, UNKNOWN
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import label_path
from occlift.scenes import BoxAnnotation, DrivingDataset, HasBoxes, HasMap, HasTruthMaps, ImageArray, KeyFrameList


@pytest.fixture(scope="module")
def town() -> Town:
    return Town.small()


def one_camera(lens: Lens | None, intrinsics_px: np.ndarray, pixels: np.ndarray, camera: str = "front") -> CameraImage:
    height, width, _ = pixels.shape
    return CameraImage(
        camera=camera, key=f"{camera}-0", timestamp_us=0, height=height, width=width, intrinsics_px=intrinsics_px,
        ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4), source=ImageArray(pixels),
        distortion=lens,
    )  # fmt: skip


def data_of(*images: CameraImage) -> KeyFrameList:
    frame = KeyFrame(token="0", scene="s", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=images)
    return KeyFrameList([frame])


def rays_of(image: CameraImage) -> np.ndarray:
    """Unit rays of the pixels of an image, in the frame of the ego vehicle."""
    columns, rows = np.meshgrid(np.arange(image.width) + 0.5, np.arange(image.height) + 0.5)
    rays, _ = unproject(np.stack([columns, rows], -1), image.intrinsics_px, image.distortion or BrownConrady())
    return rays @ image.ego_at_image_from_camera[:3, :3].T


def colours(rays: np.ndarray) -> np.ndarray:
    """A world at infinity of smooth colours."""
    x, y, z = np.moveaxis(rays, -1, 0)
    waves = np.stack([np.sin(9 * x), np.cos(7 * y + 2 * z), np.sin(8 * z + 5 * x)], -1)
    return (np.nan_to_num(waves) * 120 + 128).round().astype(np.uint8)


def label_of(data: DrivingDataset, out: Path) -> OccupancyLabel:
    config = LabelConfig(
        frames=1, semantics="oracle:perfect", depth="oracle:perfect", free_stride=1,
        decision=DecisionConfig(fusion="votes", min_points=1),
    )  # fmt: skip
    assert not generate_labels(data, out, config).failed
    return read_label(label_path(out, "town", "0"), allow_unknown=True)


@pytest.mark.parametrize("name", LENSES)
def test_labels_through_a_lens_are_those_of_a_pinhole_town(name: str, town: Town, tmp_path: Path) -> None:
    """Measured: 0.998 to 1.000 of the voxels that both see are equal; of those that are occupied in either, 0.91 to
    0.99, and the rest lies within a voxel of the other's. What differs is that a pixel shows its nearest neighbour in
    the image of the lens: with images of twice the size it is a third."""
    data = Rectified(town.data(*LENSES[name]), size=(100, 120))
    pinholes = TracedTown([town.traced(data.key_frame("0"))])
    ours, theirs = label_of(data, tmp_path / "rectified"), label_of(pinholes, tmp_path / "pinholes")
    both = ours.mask_camera & theirs.mask_camera
    assert both.sum() > 0.96 * ours.mask_camera.sum()
    assert (ours.semantics == theirs.semantics)[both].mean() > 0.997
    occupied, expected = both & (ours.semantics < FREE), both & (theirs.semantics < FREE)
    assert (occupied & expected).sum() / (occupied | expected).sum() > 0.9
    assert (ours.semantics == theirs.semantics)[occupied & expected].mean() > 0.985
    around = np.ones((3, 3, 3), bool)
    assert binary_dilation(expected, around)[occupied].mean() > 0.985
    assert binary_dilation(occupied, around)[expected].mean() > 0.985


@pytest.mark.parametrize("name", LENSES)
def test_truth_maps_are_those_of_the_virtual_camera(name: str, town: Town) -> None:
    data = Rectified(town.data(*LENSES[name]))
    assert isinstance(data, HasTruthMaps)
    for image, pinhole in zip(data.key_frame("0").cameras, town.traced(data.key_frame("0")).cameras, strict=True):
        found, expected = data.truth_maps(image), TracedTown([]).truth_maps(pinhole)
        valid = image.valid()
        assert valid is not None
        assert (found.semantics[~valid] == UNKNOWN).all()
        assert (found.semantics == expected.semantics)[valid].mean() > 0.96
        finite = valid & np.isfinite(found.depth_m) & np.isfinite(expected.depth_m)
        assert finite.sum() > 1000
        assert np.median(np.abs(found.depth_m[finite] / expected.depth_m[finite] - 1)) < 0.01


@pytest.mark.parametrize("name", LENSES)
def test_pictures_are_those_that_a_pinhole_takes(name: str) -> None:
    """Close enough to tell when the image is sampled half a pixel off."""
    lens, intrinsics_px = LENSES[name]
    image = one_camera(lens, intrinsics_px, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    image = replace(image, source=ImageArray(colours(rays_of(image))))
    for virtual in Rectified(data_of(image)).key_frame("0").cameras:
        valid, found = virtual.valid(), virtual.read()
        assert valid is not None
        assert valid.mean() > 0.9
        assert not found[~valid].any()
        # The outermost pixel of the lens has neighbours on one side only.
        inner = ~binary_dilation(~valid, np.ones((5, 5), bool))
        inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False
        wrong = np.abs(found.astype(int) - colours(rays_of(virtual)))[inner]
        assert wrong.max() <= 5
        assert wrong.mean() < 0.6


def test_a_lens_without_distortion_gives_the_same_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    intrinsics_px = np.array([[50.0, 0, 33], [0, 50, 21], [0, 0, 1]])
    (virtual,) = Rectified(data_of(one_camera(BrownConrady(), intrinsics_px, pixels))).key_frame("0").cameras
    assert (virtual.camera, virtual.key, virtual.distortion) == ("front", "front-0", None)
    np.testing.assert_allclose(virtual.intrinsics_px, intrinsics_px, atol=1e-6)
    np.testing.assert_array_equal(virtual.read(), pixels)
    assert virtual.valid() is not None
    assert virtual.valid().all()


def test_undistorted_cameras_pass_through_and_wide_ones_become_several() -> None:
    def fisheye(camera: str, focal_px: float) -> CameraImage:
        return one_camera(KannalaBrandt(), intrinsics(focal_px), np.zeros((HEIGHT, WIDTH, 3), np.uint8), camera)

    pinhole = one_camera(None, intrinsics(300.0), np.zeros((HEIGHT, WIDTH, 3), np.uint8), "pinhole")
    data = Rectified(data_of(fisheye("tele", 300.0), pinhole, fisheye("wide", 170.0), fisheye("round", 110.0)))
    assert data.cameras == (
        "tele", "pinhole", "wide-left", "wide-right", "round-left", "round-center", "round-right",
    )  # fmt: skip
    frame = data.key_frame("0")
    assert tuple(image.camera for image in frame.cameras) == data.cameras
    assert frame.cameras[1] is pinhole
    assert len({image.key for image in frame.cameras}) == len({image.stem for image in frame.cameras}) == 7
    for name, together_deg in (("wide", WIDTH / 170), ("round", WIDTH / 110)):
        images = [image for image in frame.cameras if image.camera.startswith(name)]
        edges = [rays_of(image)[image.height // 2, [0, -1]] for image in images]
        # Of cameras with identity mounting: x to the right, z ahead.
        left, right = np.degrees(np.arctan2(*np.moveaxis(np.array(edges)[..., [0, 2]], -1, 0))).T
        np.testing.assert_allclose(left[1:], right[:-1], atol=1.0)
        assert right[-1] - left[0] == pytest.approx(np.degrees(together_deg), abs=1.5)
        # Side by side, without a gap, at the resolution of the lens.
        assert all(image.intrinsics_px[0, 0] == pytest.approx(170 if name == "wide" else 110, rel=0.02)
                   for image in images)  # fmt: skip


def test_field_of_view_and_size_are_as_asked_for() -> None:
    image = one_camera(KannalaBrandt(), intrinsics(110.0), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (one,) = Rectified(data_of(image), field_of_view_deg=90, size=(80, 160)).key_frame("0").cameras
    assert (one.camera, one.height, one.width, one.read().shape) == ("front", 80, 160, (80, 160, 3))
    assert one.intrinsics_px[0, 0] == pytest.approx(80, rel=5e-3)
    both = Rectified(data_of(image), field_of_view_deg=120).key_frame("0").cameras
    assert [virtual.camera for virtual in both] == ["front-left", "front-right"]
    assert both[0].intrinsics_px[0, 0] == pytest.approx(both[0].width / 2 / np.tan(np.radians(30)))
    for wrong in ({"field_of_view_deg": 0}, {"field_of_view_deg": 300}, {"size": (0, 10)}):
        with pytest.raises(ConfigError, match=rf"{next(iter(wrong))} is .*; expected"):
            Rectified(data_of(image), **wrong)  # type: ignore[arg-type]


def test_intrinsics_of_another_image_are_told_about() -> None:
    image = one_camera(KannalaBrandt(), intrinsics(110.0) * 4, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"camera front: kannala_brandt: the axis of the lens is at .*, outside of"):
        Rectified(data_of(image))


def test_a_pixel_that_covers_many_is_their_mean() -> None:
    """A board of black and white pixels, four times smaller: grey, not a pattern that is not there."""
    board = np.repeat((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    image = one_camera(BrownConrady(k1=-0.1), np.array([[200.0, 0, 128], [0, 200, 128], [0, 0, 1]]), board)
    (small,) = Rectified(data_of(image), size=(64, 64)).key_frame("0").cameras
    found = small.read()[8:-8, 8:-8]
    assert np.abs(found.mean() - 127.5) < 2
    assert found.std() < 25


@dataclass(frozen=True, eq=False)
class Masked(ImageArray):
    mask: np.ndarray = field(kw_only=True)

    def valid(self) -> np.ndarray:
        return self.mask


def test_what_is_not_valid_in_the_image_is_not_valid_in_the_virtual_one() -> None:
    lens, intrinsics_px = LENSES["brown_conrady"]
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[HEIGHT // 2 :] = False
    image = one_camera(lens, intrinsics_px, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    masked = replace(image, source=Masked(np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask=mask))
    (whole,), (half,) = (Rectified(data_of(shown)).key_frame("0").cameras for shown in (image, masked))
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(half.intrinsics_px).T
    pixels, _ = project(rays, intrinsics_px, lens)
    assert whole.valid() is not None
    np.testing.assert_array_equal(half.valid(), whole.valid() & (pixels[..., 1] < HEIGHT // 2))
    assert 0.4 < half.valid().mean() < 0.6


class Boxed(KeyFrameList):
    def boxes(self, token: str) -> tuple[BoxAnnotation, ...]:
        return (BoxAnnotation(instance=token, category="car", size_lwh_m=(4, 2, 1.5), global_from_box=np.eye(4)),)


def test_capabilities_are_those_of_the_data_set_and_all_of_it_can_be_pickled(town: Town) -> None:
    plain = Rectified(data_of(one_camera(*LENSES["mei"], np.zeros((HEIGHT, WIDTH, 3), np.uint8))))
    assert isinstance(plain, DrivingDataset)
    assert not isinstance(plain, HasBoxes | HasMap | HasTruthMaps)
    boxed = Rectified(Boxed([plain.key_frame("0")]))
    assert isinstance(boxed, HasBoxes)
    assert boxed.boxes("0")[0].instance == "0"
    traced = Rectified(town.data(*LENSES["mei"]))
    again = pickle.loads(pickle.dumps(traced))
    assert isinstance(again, HasTruthMaps)
    assert (again.cameras, again.spec) == (traced.cameras, traced.spec)
    ours, theirs = again.key_frame("0").cameras[0], traced.key_frame("0").cameras[0]
    np.testing.assert_array_equal(ours.read(), theirs.read())
    np.testing.assert_array_equal(again.truth_maps(ours).depth_m, traced.truth_maps(theirs).depth_m)
    assert (
        ours.source.fingerprint() == theirs.source.fingerprint() != again.key_frame("0").cameras[1].source.fingerprint()
    )


def test_poses_lead_to_the_same_points(town: Town) -> None:
    """What a virtual camera and the real one show at their pixels is one direction of the world."""
    real = town.data(*LENSES["kannala_brandt"])
    image, virtual = real.key_frame("0").cameras[0], Rectified(real).key_frame("0").cameras[2]
    points_virtual = np.array([[0.5, 0.2, 4.0], [-1.0, 0.5, 3.0]])
    points_camera = transform_points(inverse(image.global_from_camera) @ virtual.global_from_camera, points_virtual)
    assert isinstance(virtual.source, RectifiedImage)
    assert image.distortion is not None
    pixels, _ = project(points_camera, image.intrinsics_px, image.distortion)
    homogeneous = points_virtual @ virtual.intrinsics_px.T
    columns, rows = (homogeneous[:, :2] / homogeneous[:, 2:]).astype(int).T
    assert np.abs(virtual.source.camera.lens_pixels(1)[rows, columns] - pixels).max() < 1.0


class FirstIsDamaged(KeyFrameList):
    def key_frame(self, token: str) -> KeyFrame:
        if token == "0":
            raise DataError("no such file")
        return super().key_frame(token)


def test_only_distorted_data_sets_are_rectified() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pinhole = data_of(one_camera(None, intrinsics(300.0), pixels))
    assert rectify_if_distorted(pinhole) is pinhole
    distorted = one_camera(*LENSES["mei"], pixels)
    frames = [replace(data_of(distorted).key_frame("0"), token=str(number), index=number) for number in range(2)]
    rectified = rectify_if_distorted(FirstIsDamaged(frames))
    assert isinstance(rectified, Rectified)
    assert rectified.cameras == ("front-left", "front-center", "front-right")


def test_a_folder_of_distorted_images_is_opened_as_pinholes(town: Town, tmp_path: Path) -> None:
    real = town.data(*LENSES["brown_conrady"])
    write_frames(real, tmp_path / "fleet")
    opened, ours = open_dataset(f"frames:{tmp_path}/fleet"), Rectified(real)
    assert isinstance(opened, Rectified)
    assert isinstance(open_dataset(opened.spec), Rectified)
    assert opened.cameras == ours.cameras
    frames = opened.key_frame("0"), ours.key_frame("0")
    for found, expected in zip(frames[0].cameras, frames[1].cameras, strict=True):
        np.testing.assert_array_equal(found.intrinsics_px, expected.intrinsics_px)
        np.testing.assert_array_equal(found.read(), expected.read())
        np.testing.assert_array_equal(opened.truth_maps(found).depth_m, ours.truth_maps(expected).depth_m)


def test_names_of_virtual_cameras_must_be_free() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    taken = one_camera(None, intrinsics(300.0), pixels, "front-left")
    with pytest.raises(DataError, match="names of others \\(front-left\\); rename a camera"):
        Rectified(data_of(one_camera(*LENSES["mei"], pixels), taken))
