"""Through a lens: from a ray of the camera to the pixel that shows it, and back.

A lens is used as far as its formula is one to one, and no further: polynomials that were fitted to the middle of an
image turn around somewhere, and what lies behind that is invalid, never folded back into the image. Everything is
float64 and vectorised; rays have any length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import acos, atan, inf, pi, radians, tan
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy.polynomial import Polynomial

from occlift.geometry.lenses import BrownConrady, FTheta, KannalaBrandt, Lens, Mei

_MAX_PLANE: Final = tan(radians(89.0))
"""Where a plane before the camera ends for lenses that are described on one, focal lengths: 89° from the axis."""

_TABLE: Final = 4096
"""Entries of the table in which the inverse of a curve begins."""

_STEPS: Final = 50
"""Of Newton's method at most; five are usual, except where a curve is about to turn around."""


def project(
    points_camera: Float[np.ndarray, "*shape n 3"], intrinsics_px: Float[np.ndarray, "3 3"], lens: Lens
) -> tuple[Float[np.ndarray, "*shape n 2"], Bool[np.ndarray, "*shape n"]]:
    """The pixels (u, v) that show points (camera frame, any unit), and which points the lens sees at all.

    Pixels of points outside of the lens's domain (`max_angle_rad`) are NaN. Whether a pixel lies in the image is not
    asked.

    Sources: OpenCV's documentation of `calib3d`, `fisheye` and `omnidir`; Kannala and Brandt, "A Generic Camera Model
    and Calibration Method for Conventional, Wide-Angle, and Fish-Eye Lenses", TPAMI 2006, equation 6; NCore's
    `FThetaCameraModelParameters`.

    >>> intrinsics_px = np.array([[100.0, 0, 64], [0, 100, 32], [0, 0, 1]])
    >>> pixels, seen = project(np.array([[1.0, 0, 0], [0, 0, -1]]), intrinsics_px, KannalaBrandt())
    >>> pixels[0].round(2).tolist(), seen.tolist()
    ([221.08, 32.0], [True, False])
    """
    points = np.asarray(points_camera, np.float64)
    with np.errstate(all="ignore"):
        plane, valid = _to_plane(points, lens)
        matrix = _pixel_from_plane(intrinsics_px, lens)
        pixels = plane @ matrix[:2, :2].T + matrix[:2, 2]
    valid &= np.isfinite(pixels).all(-1)
    return np.where(valid[..., None], pixels, np.nan), valid


def unproject(
    pixels: Float[np.ndarray, "*shape n 2"], intrinsics_px: Float[np.ndarray, "3 3"], lens: Lens
) -> tuple[Float[np.ndarray, "*shape n 3"], Bool[np.ndarray, "*shape n"]]:
    """The rays (camera frame, unit length) that pixels (u, v) show, and which show any: the inverse of `project`.

    Rays of pixels outside of the lens's domain are NaN.

    >>> intrinsics_px = np.array([[100.0, 0, 64], [0, 100, 32], [0, 0, 1]])
    >>> rays, valid = unproject(np.array([[64 + 50 * np.pi, 32.0]]), intrinsics_px, KannalaBrandt())
    >>> (rays[0] + 0.0).round(6).tolist()
    [1.0, 0.0, 0.0]
    """
    matrix = _pixel_from_plane(intrinsics_px, lens)
    with np.errstate(all="ignore"):
        plane = (np.asarray(pixels, np.float64) - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T
        rays, valid = _to_rays(plane, lens)
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    valid &= np.isfinite(rays).all(-1)
    return np.where(valid[..., None], rays, np.nan), valid


def max_angle_rad(lens: Lens) -> float:
    """The angle with the optical axis up to which a lens is defined, radians.

    Brown–Conrady: up to 89°, or to where the radius in the image stops growing with the angle, or the rational terms
    divide by zero. Kannala–Brandt: up to 180°, likewise. f-theta: up to its `max_angle`, likewise. Mei: up to where the
    sphere is seen from its shifted pinhole, likewise. Tangential terms move the limit a little on one side
    (`project` and `unproject` heed that).

    >>> round(float(np.degrees(max_angle_rad(BrownConrady(k1=-0.3)))), 1)
    46.5
    """
    curve = _curve(lens)
    if isinstance(lens, BrownConrady):
        return atan(curve.end)
    if isinstance(lens, Mei):
        rays, _ = _sphere_rays(np.array([[curve.end, 0.0]]), lens.xi)
        lifted = float(np.arctan2(rays[0, 0], rays[0, 2]))
        return min(_sphere_limit_rad(lens.xi), inf if np.isnan(lifted) else lifted)
    if isinstance(lens, FTheta) and lens.reference_poly == "PIXELDIST_TO_ANGLE":
        return float(curve.value(np.array([curve.end]))[0])
    return curve.end


@dataclass(frozen=True, kw_only=True, eq=False)
class _Curve:
    """A quotient of two polynomials that is 0 at 0 and grows up to `end`."""

    numerator: Polynomial
    denominator: Polynomial
    end: float

    def value(self, x: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape n"]:
        return self.numerator(x) / self.denominator(x)

    def slope(self, x: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape n"]:
        bottom = self.denominator(x)
        return (self.numerator.deriv()(x) - self.numerator(x) / bottom * self.denominator.deriv()(x)) / bottom

    def inverse(self, y: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape n"]:
        """Where the curve has a value, NaN where it has not; Newton's method, kept between two entries of a table."""
        # Dense near 0: on a plane before the camera, equal steps of the angle.
        table_x = np.tan(np.linspace(0.0, atan(self.end), _TABLE))
        table_x[-1] = self.end
        table_y = self.value(table_x)
        found = np.full(y.shape, np.nan)
        inside = (y >= 0) & (y <= table_y[-1])
        target = y[inside]
        upper = np.clip(np.searchsorted(table_y, target), 1, _TABLE - 1)
        low, high = table_x[upper - 1], table_x[upper]
        x = low + (high - low) * (target - table_y[upper - 1]) / (table_y[upper] - table_y[upper - 1])
        left = np.arange(len(x))
        for _ in range(_STEPS):
            before = x[left]
            step = (self.value(before) - target[left]) / np.maximum(self.slope(before), 1e-300)
            x[left] = np.clip(before - step, low[left], high[left])
            # Where a step of Newton's is this small the last one was exact.
            left = left[np.abs(x[left] - before) > 1e-10 * (1.0 + before)]
            if not len(left):
                break
        found[inside] = x
        return found


@lru_cache(maxsize=64)
def _curve(lens: Lens) -> _Curve:
    """How the radius in the image grows: with the radius on the plane (Brown–Conrady, Mei) or with the angle.

    For f-theta lenses whose reference is the other polynomial: how the angle grows with the radius.
    """
    one = Polynomial([1.0])
    if isinstance(lens, KannalaBrandt):
        return _growing(Polynomial([0, 1.0, 0, lens.k1, 0, lens.k2, 0, lens.k3, 0, lens.k4]), one, pi)
    if isinstance(lens, BrownConrady):
        numerator = Polynomial([0, 1.0, 0, lens.k1, 0, lens.k2, 0, lens.k3])
        return _growing(numerator, Polynomial([1.0, 0, lens.k4, 0, lens.k5, 0, lens.k6]), _MAX_PLANE)
    if isinstance(lens, Mei):
        return _curve(_plane_lens(lens))
    polynomial = Polynomial(lens.reference_polynomial)
    if lens.reference_poly == "ANGLE_TO_PIXELDIST":
        return _growing(polynomial, one, lens.max_angle)
    about_px = lens.max_angle / lens.reference_polynomial[1]
    limit_px = min(_positive_roots(polynomial - lens.max_angle, about_px), default=inf)
    return _growing(polynomial, one, limit_px, scale=about_px)


def _growing(numerator: Polynomial, denominator: Polynomial, limit: float, *, scale: float | None = None) -> _Curve:
    slope = numerator.deriv() * denominator - numerator * denominator.deriv()
    ends = [root for polynomial in (slope, denominator) for root in _positive_roots(polynomial, scale or limit)]
    # A little before a pole, where the value is finite still.
    return _Curve(numerator=numerator, denominator=denominator, end=min([limit, *((1 - 1e-9) * end for end in ends)]))


def _positive_roots(polynomial: Polynomial, scale: float) -> list[float]:
    """Real positive roots, as well as can be told for numbers of about `scale`."""
    coefficients = np.asarray(polynomial.coef, np.float64) * scale ** np.arange(len(polynomial.coef))
    scaled = Polynomial(coefficients).trim(1e-16 * np.abs(coefficients).max())
    roots = np.asarray(scaled.roots(), np.complex128) if scaled.degree() > 0 else np.empty(0, np.complex128)
    return [scale * float(root.real) for root in roots if root.real > 0 and abs(root.imag) < 1e-9 * abs(root)]


def _pixel_from_plane(intrinsics_px: Float[np.ndarray, "3 3"], lens: Lens) -> Float[np.ndarray, "3 3"]:
    matrix = np.array(intrinsics_px, np.float64)
    if isinstance(lens, FTheta):
        c, d, e = lens.linear_cde
        matrix[:2, :2] = [[c, d], [e, 1.0]]
    return matrix


def _to_plane(
    points: Float[np.ndarray, "*shape n 3"], lens: Lens
) -> tuple[Float[np.ndarray, "*shape n 2"], Bool[np.ndarray, "*shape n"]]:
    """Where rays meet the image in the unit of the lens (focal lengths; pixels for f-theta), and whether they do."""
    if isinstance(lens, BrownConrady):
        ahead = points[..., 2] > 0
        distorted, valid = _distort(points[..., :2] / np.where(ahead, points[..., 2], np.nan)[..., None], lens)
        return distorted, valid & ahead
    if isinstance(lens, Mei):
        unit = points / np.linalg.norm(points, axis=-1, keepdims=True)
        depth = unit[..., 2] + lens.xi
        seen = (depth > 0) & (np.arccos(np.clip(unit[..., 2], -1, 1)) < _sphere_limit_rad(lens.xi))
        distorted, valid = _distort(unit[..., :2] / np.where(seen, depth, np.nan)[..., None], _plane_lens(lens))
        return distorted, valid & seen
    across = np.hypot(points[..., 0], points[..., 1])
    angle_rad = np.arctan2(across, points[..., 2])
    curve = _curve(lens)
    if isinstance(lens, FTheta) and lens.reference_poly == "PIXELDIST_TO_ANGLE":
        radius = curve.inverse(angle_rad)
        valid = np.isfinite(radius)
    else:
        radius = curve.value(angle_rad)
        valid = angle_rad <= curve.end
    # Straight backwards is every direction in the image at once.
    valid &= (across > 0) | (points[..., 2] > 0)
    return points[..., :2] * (radius / np.maximum(across, 1e-300))[..., None], valid


def _to_rays(
    plane: Float[np.ndarray, "*shape n 2"], lens: Lens
) -> tuple[Float[np.ndarray, "*shape n 3"], Bool[np.ndarray, "*shape n"]]:
    """The inverse of `_to_plane`; rays of any length."""
    if isinstance(lens, BrownConrady):
        points, valid = _undistort(plane, lens)
        return np.concatenate((points, np.ones_like(points[..., :1])), -1), valid
    if isinstance(lens, Mei):
        points, valid = _undistort(plane, _plane_lens(lens))
        rays, on_sphere = _sphere_rays(points, lens.xi)
        return rays, valid & on_sphere
    radius = np.hypot(plane[..., 0], plane[..., 1])
    curve = _curve(lens)
    if isinstance(lens, FTheta) and lens.reference_poly == "PIXELDIST_TO_ANGLE":
        angle_rad = np.where(radius <= curve.end, curve.value(radius), np.nan)
    else:
        angle_rad = curve.inverse(radius)
    across = plane * (np.sin(angle_rad) / np.maximum(radius, 1e-300))[..., None]
    return np.concatenate((across, np.cos(angle_rad)[..., None]), -1), np.isfinite(angle_rad)


# Brown–Conrady, on the plane one focal length before the camera.


def _distort(
    points: Float[np.ndarray, "*shape n 2"], lens: BrownConrady
) -> tuple[Float[np.ndarray, "*shape n 2"], Bool[np.ndarray, "*shape n"]]:
    distorted, slopes = _distortion(points, lens)
    return distorted, _one_to_one(points, slopes, lens)


def _undistort(
    distorted: Float[np.ndarray, "*shape n 2"], lens: BrownConrady
) -> tuple[Float[np.ndarray, "*shape n 2"], Bool[np.ndarray, "*shape n"]]:
    """Newton's method in two dimensions, from where the point would be without tangential terms."""
    curve = _curve(lens)
    radius = np.hypot(distorted[..., 0], distorted[..., 1])
    last = curve.end * (1 - 1e-6)
    last_radius = curve.value(np.array([last]))
    start = np.where(radius <= last_radius, curve.inverse(np.where(radius <= last_radius, radius, 0.0)), last)
    # Tangential terms move the limit by this much at most.
    start[radius > last_radius + 3 * (abs(lens.p1) + abs(lens.p2)) * last**2] = np.nan
    points = np.ascontiguousarray(distorted * (start / np.maximum(radius, 1e-300))[..., None])
    if lens.p1 or lens.p2:
        flat, target = points.reshape(-1, 2), distorted.reshape(-1, 2)
        left = np.flatnonzero(np.isfinite(flat).all(-1))
        for _ in range(_STEPS):
            found, (xx, xy, yy) = _distortion(flat[left], lens)
            wrong_x, wrong_y = (found - target[left]).T
            determinant = xx * yy - xy * xy
            step = np.stack((yy * wrong_x - xy * wrong_y, xx * wrong_y - xy * wrong_x), -1) / determinant[:, None]
            flat[left] -= step
            size = np.linalg.norm(flat[left], axis=-1)
            # What left the domain will not come back.
            left = left[(np.linalg.norm(step, axis=-1) > 1e-10 * (1.0 + size)) & (size < 2.0 * curve.end)]
            if not len(left):
                break
        points = flat.reshape(distorted.shape)
    found, slopes = _distortion(points, lens)
    hit = np.linalg.norm(found - distorted, axis=-1) < 1e-9 * (1.0 + radius)
    return points, hit & _one_to_one(points, slopes, lens)


def _distortion(
    points: Float[np.ndarray, "*shape n 2"], lens: BrownConrady
) -> tuple[
    Float[np.ndarray, "*shape n 2"],
    tuple[Float[np.ndarray, "*shape n"], Float[np.ndarray, "*shape n"], Float[np.ndarray, "*shape n"]],
]:
    """Distorted points and the three different entries (xx, xy, yy) of the symmetric matrix of derivatives."""
    x, y = points[..., 0], points[..., 1]
    curve = _curve(lens)
    radius = np.hypot(x, y)
    small = radius < 1e-9
    safe = np.where(small, 1.0, radius)
    scale = np.where(small, 1.0, curve.value(safe) / safe)
    # The derivative of the scale by r², times two.
    growth = np.where(small, 0.0, (curve.slope(safe) - scale) / safe**2)
    p1, p2 = lens.p1, lens.p2
    distorted_x = x * scale + 2 * p1 * x * y + p2 * (radius**2 + 2 * x**2)
    distorted_y = y * scale + p1 * (radius**2 + 2 * y**2) + 2 * p2 * x * y
    xx = scale + growth * x**2 + 2 * p1 * y + 6 * p2 * x
    xy = growth * x * y + 2 * p1 * x + 2 * p2 * y
    yy = scale + growth * y**2 + 6 * p1 * y + 2 * p2 * x
    return np.stack((distorted_x, distorted_y), -1), (xx, xy, yy)


def _one_to_one(
    points: Float[np.ndarray, "*shape n 2"],
    slopes: tuple[Float[np.ndarray, "*shape n"], Float[np.ndarray, "*shape n"], Float[np.ndarray, "*shape n"]],
    lens: BrownConrady,
) -> Bool[np.ndarray, "*shape n"]:
    """Whether points lie before the place where the distortion turns around."""
    xx, xy, yy = slopes
    return (np.hypot(points[..., 0], points[..., 1]) < _curve(lens).end) & (xx * yy > xy * xy) & (xx + yy > 0)


# Mei: a sphere around the camera, seen from a pinhole `xi` behind its centre.


def _plane_lens(lens: Mei) -> BrownConrady:
    return BrownConrady(k1=lens.k1, k2=lens.k2, p1=lens.p1, p2=lens.p2)


def _sphere_limit_rad(xi: float) -> float:
    """Up to 1 the plane of the pinhole ends the view; above, the outline of the sphere as the pinhole sees it."""
    return acos(-xi) if xi <= 1 else acos(-1 / xi)


def _sphere_rays(
    points: Float[np.ndarray, "*shape n 2"], xi: float
) -> tuple[Float[np.ndarray, "*shape n 3"], Bool[np.ndarray, "*shape n"]]:
    """The points of the unit sphere that points on the plane of the pinhole show; equation (9) of Mei's paper."""
    r2 = (points**2).sum(-1)
    root = 1.0 + (1.0 - xi**2) * r2
    along = (xi + np.sqrt(np.where(root >= 0, root, np.nan))) / (1.0 + r2)
    return np.concatenate((points * along[..., None], (along - xi)[..., None]), -1), root >= 0
