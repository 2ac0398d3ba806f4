"""Lenses against OpenCV, the laws of going there and back, and what is said about wrong parameters.

OpenCV's pixel centres are at whole numbers, ours at + 0.5.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import randoms

from occlift.errors import ConfigError
from occlift.geometry.lens_projection import max_angle_rad, project, unproject
from occlift.geometry.lenses import BrownConrady, FTheta, KannalaBrandt, Lens, Mei, lens_from_dict

INTRINSICS_PX = np.array([[600.0, 0, 640.5], [0, 590, 360.5], [0, 0, 1]])
OPENCV_INTRINSICS_PX = INTRINSICS_PX - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
NOWHERE = np.zeros(3)

BROWN_CONRADY = BrownConrady(k1=-0.28, k2=0.09, p1=1e-3, p2=-2e-3, k3=-0.01)
RATIONAL = BrownConrady(k1=1.2, k2=0.3, p1=1e-3, p2=-2e-3, k3=0.01, k4=1.5, k5=0.5, k6=0.05)
FISHEYE = KannalaBrandt(k1=0.03, k2=-0.01, k3=0.004, k4=-8e-4)
FTHETA = FTheta(
    reference_poly="ANGLE_TO_PIXELDIST", angle_to_pixeldist_poly=(0, 500.0, 3, -8, 1), max_angle=1.7,
    linear_cde=(1.01, 2e-3, -1e-3),
)  # fmt: skip
BACKWARD_FTHETA = FTheta(
    reference_poly="PIXELDIST_TO_ANGLE", pixeldist_to_angle_poly=(0, 2e-3, 1e-8, 4e-10), max_angle=1.7
)
MEI = Mei(xi=1.3, k1=-0.1, k2=0.02, p1=1e-3, p2=-5e-4)
NEAR_MEI = Mei(xi=0.8, k1=-0.1, k2=0.02, p1=1e-3, p2=-5e-4)
# Far from the axis, where the rational terms flatten the image, tangential ones turn it around.
LENSES = (BROWN_CONRADY, replace(RATIONAL, p1=0.0, p2=0.0), FISHEYE, FTHETA, BACKWARD_FTHETA, MEI, NEAR_MEI)


def rays_within(angle_rad: float, count: int = 500) -> np.ndarray:
    """Rays of all directions up to an angle with the optical axis, of different lengths."""
    random = np.random.default_rng(0)
    angle, around = random.uniform(0, angle_rad, count), random.uniform(0, 2 * np.pi, count)
    unit = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], -1)
    return unit * random.uniform(0.5, 20, (count, 1))


def opencv_pixels(rays: np.ndarray, lens: Lens) -> np.ndarray:
    if isinstance(lens, BrownConrady):
        coefficients = np.array([lens.k1, lens.k2, lens.p1, lens.p2, lens.k3, lens.k4, lens.k5, lens.k6])
        found, _ = cv2.projectPoints(rays, NOWHERE, NOWHERE, OPENCV_INTRINSICS_PX, coefficients)
    elif isinstance(lens, KannalaBrandt):
        coefficients = np.array([lens.k1, lens.k2, lens.k3, lens.k4])
        found, _ = cv2.fisheye.projectPoints(rays[:, None], NOWHERE, NOWHERE, OPENCV_INTRINSICS_PX, coefficients)
    else:
        coefficients = np.array([[lens.k1, lens.k2, lens.p1, lens.p2]])
        found, _ = cv2.omnidir.projectPoints(
            rays[:, None], NOWHERE, NOWHERE, OPENCV_INTRINSICS_PX, lens.xi, coefficients
        )
    return found.reshape(-1, 2) + 0.5


def opencv_rays(pixels: np.ndarray, lens: Lens) -> np.ndarray:
    """Unit rays, solved as precisely as OpenCV can."""
    pixels = (pixels - 0.5)[:, None]
    enough = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-14)
    if isinstance(lens, BrownConrady):
        coefficients = np.array([lens.k1, lens.k2, lens.p1, lens.p2, lens.k3, lens.k4, lens.k5, lens.k6])
        plane = cv2.undistortPoints(pixels, OPENCV_INTRINSICS_PX, coefficients, criteria=enough)
    elif isinstance(lens, KannalaBrandt):
        coefficients = np.array([lens.k1, lens.k2, lens.k3, lens.k4])
        plane = cv2.fisheye.undistortPoints(pixels, OPENCV_INTRINSICS_PX, coefficients, criteria=enough)
    else:
        coefficients = np.array([[lens.k1, lens.k2, lens.p1, lens.p2]])
        plane = cv2.omnidir.undistortPoints(pixels, OPENCV_INTRINSICS_PX, coefficients, np.array([lens.xi]), np.eye(3))
    rays = np.concatenate([plane.reshape(-1, 2), np.ones((len(pixels), 1))], -1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("lens", "degrees"), [(BROWN_CONRADY, 50), (RATIONAL, 60), (FISHEYE, 85), (MEI, 100), (NEAR_MEI, 100)]
)
def test_pixels_and_rays_are_those_of_opencv(lens: Lens, degrees: float) -> None:
    rays = rays_within(np.radians(degrees))
    pixels, seen = project(rays, INTRINSICS_PX, lens)
    assert seen.all()
    np.testing.assert_allclose(pixels, opencv_pixels(rays, lens), atol=1e-3)
    # OpenCV gives points of the plane one focal length ahead, which rays to the side do not meet.
    ahead = pixels[rays[:, 2] > 0.2 * np.linalg.norm(rays, axis=-1)]
    found, valid = unproject(ahead, INTRINSICS_PX, lens)
    assert valid.all()
    reference = opencv_rays(ahead, lens)
    # An angle, as pixels of the middle of the image.
    assert np.abs(found - reference).max() * INTRINSICS_PX[0, 0] < 1e-3


def test_f_theta_is_its_polynomial() -> None:
    """There is no such lens in OpenCV: written out for one ray, by hand."""
    lens = FTheta(
        reference_poly="ANGLE_TO_PIXELDIST", angle_to_pixeldist_poly=(0, 500, 10, -20), max_angle=1.5,
        linear_cde=(1.1, 0.2, 0.1),
    )  # fmt: skip
    (pixel,), _ = project(np.array([[3.0, 4.0, 5.0]]), INTRINSICS_PX, lens)
    radius = 500 * np.pi / 4 + 10 * (np.pi / 4) ** 2 - 20 * (np.pi / 4) ** 3
    expected = [640.5 + radius * (1.1 * 0.6 + 0.2 * 0.8), 360.5 + radius * (0.1 * 0.6 + 0.8)]
    np.testing.assert_allclose(pixel, expected, atol=1e-9)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_come_back_from_their_pixels_in_the_whole_domain(lens: Lens) -> None:
    limit_rad = max_angle_rad(lens)
    rays = rays_within(0.98 * limit_rad, 5000)
    pixels, seen = project(rays, INTRINSICS_PX, lens)
    assert seen.all()
    found, valid = unproject(pixels, INTRINSICS_PX, lens)
    assert valid.all()
    np.testing.assert_allclose(found, rays / np.linalg.norm(rays, axis=-1, keepdims=True), atol=1e-8)


@pytest.mark.parametrize("lens", LENSES)
def test_pixels_come_back_from_their_rays_and_others_have_none(lens: Lens) -> None:
    columns, rows = np.meshgrid(np.linspace(-3000, 4000, 141), np.linspace(-3000, 4000, 141))
    pixels = np.stack([columns, rows], -1)
    rays, valid = unproject(pixels, INTRINSICS_PX, lens)
    back, seen = project(rays[valid], INTRINSICS_PX, lens)
    assert valid.mean() > 0.01
    assert seen.mean() > 0.999
    np.testing.assert_allclose(back[seen], pixels[valid][seen], atol=1e-5)
    assert np.isnan(rays[~valid]).all()


@pytest.mark.parametrize("lens", LENSES)
def test_nothing_is_folded_back_from_outside_of_the_domain(lens: Lens) -> None:
    """The radius grows with the angle as long as rays are seen, in every direction; after that none is."""
    limit_rad = max_angle_rad(lens)
    angle = np.linspace(0, np.pi, 2001)[None, :]
    around = np.linspace(0, 2 * np.pi, 12)[:, None]
    rays = np.stack(np.broadcast_arrays(np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)))
    pixels, seen = project(np.moveaxis(rays, 0, -1), INTRINSICS_PX, lens)
    radius = np.linalg.norm(pixels - INTRINSICS_PX[:2, 2], axis=-1)
    assert (np.diff(seen.astype(int), axis=1) <= 0).all()
    assert not seen[:, angle[0] > limit_rad + 1e-3].any()
    assert seen[:, angle[0] < 0.98 * limit_rad].all()
    grows = np.diff(radius, axis=1)
    assert (grows[seen[:, 1:]] > 0).all()


@pytest.mark.parametrize(
    ("lens", "degrees"),
    [
        # r (1 + k1 r²) turns around at r² = −1 / (3 k1).
        (BrownConrady(k1=-0.3), np.degrees(np.arctan((1 / 0.9) ** 0.5))),
        (BrownConrady(k1=0.3), 89.0),
        # The denominator 1 + k4 r² is zero at r = 2.
        (BrownConrady(k4=-0.25), np.degrees(np.arctan(2))),
        (KannalaBrandt(), 180.0),
        (KannalaBrandt(k1=-0.3), np.degrees((1 / 0.9) ** 0.5)),
        (FTheta(reference_poly="ANGLE_TO_PIXELDIST", angle_to_pixeldist_poly=(0, 500), max_angle=1.0), np.degrees(1)),
        (FTheta(reference_poly="PIXELDIST_TO_ANGLE", pixeldist_to_angle_poly=(0, 2e-3, -1e-6)), np.degrees(1)),
        (Mei(xi=0.0), 89.0),
        (Mei(xi=1.0), 178.0),
        (Mei(xi=2.0), 120.0),
    ],
)
def test_the_domain_ends_where_the_formula_turns_around(lens: Lens, degrees: float) -> None:
    assert np.degrees(max_angle_rad(lens)) == pytest.approx(degrees, abs=1e-6)


@st.composite
def lenses(draw: st.DrawFn) -> Lens:
    number = st.floats(-0.3, 0.3)
    tangential = st.floats(-0.005, 0.005)
    kind = draw(st.sampled_from(["brown_conrady", "kannala_brandt", "f_theta", "mei"]))
    if kind == "kannala_brandt":
        return KannalaBrandt(**{name: draw(number) for name in ("k1", "k2", "k3", "k4")})
    if kind == "f_theta":
        polynomial = (0.0, *(draw(st.floats(-1, 1)) * scale for scale in (100, 50, 20, 5)))
        polynomial = (0.0, 500 + polynomial[1], *polynomial[2:])
        return FTheta(
            reference_poly="ANGLE_TO_PIXELDIST", angle_to_pixeldist_poly=polynomial, max_angle=draw(st.floats(0.3, 3))
        )
    radial = {name: draw(number) for name in ("k1", "k2")}
    radial |= {name: draw(tangential) for name in ("p1", "p2")}
    if kind == "mei":
        return Mei(xi=draw(st.floats(0, 2)), **radial)
    return BrownConrady(**radial, **{name: draw(number) for name in ("k3", "k4", "k5", "k6")})


@given(lenses(), randoms)
def test_any_lens_undoes_itself(lens: Lens, random: np.random.Generator) -> None:
    angle, around = random.uniform(0, 0.95 * max_angle_rad(lens), 200), random.uniform(0, 2 * np.pi, 200)
    rays = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], -1)
    pixels, seen = project(rays, INTRINSICS_PX, lens)
    found, valid = unproject(pixels[seen], INTRINSICS_PX, lens)
    assert seen.mean() > 0.8
    assert valid.all()
    np.testing.assert_allclose(found, rays[seen], atol=1e-6)


@given(lenses())
def test_any_lens_comes_back_from_its_dictionary(lens: Lens) -> None:
    assert lens_from_dict(lens.to_dict()) == lens


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is no lens None; expected one of brown_conrady"),
        ({"model": "pinhole"}, "there is no lens 'pinhole'"),
        ({"model": "mei"}, "the parameter 'xi' is missing"),
        ({"model": "mei", "xi": -1.0}, "xi is -1.0"),
        ({"model": "brown_conrady", "k7": 1.0}, "has no parameter 'k7'"),
        ({"model": "brown_conrady", "k1": "a"}, "k1 is 'a'; expected a finite number"),
        ({"model": "brown_conrady", "k1": float("nan")}, "k1 is nan"),
        ({"model": "kannala_brandt", "k1": [1.0, 2.0]}, "expected a finite number"),
        ({"model": "f_theta", "reference_poly": "ANGLE_TO_PIXELDIST"}, "angle_to_pixeldist_poly is ()"),
        ({"model": "f_theta", "reference_poly": "forward"}, "expected one of PIXELDIST_TO_ANGLE"),
        ({"model": "f_theta", "principal_point": [1, 2]}, "it is that of the intrinsics, plus half a pixel"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        lens_from_dict(values)
