"""Lenses: how the image of a real camera departs from a pinhole's, in the parameter names of OpenCV and NCore.

Only `occlift.datasets.rectified` needs them: it makes virtual pinhole cameras of distorted ones, and everything else
works with pinholes.

Camera frame: x right, y down, z along the optical axis. Pixel centres at + 0.5, here as everywhere; OpenCV, KITTI, ROS
and NCore have them at whole numbers, so half a pixel is added to their principal points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import isfinite, pi
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

from occlift.errors import ConfigError

PolynomialName = Literal["PIXELDIST_TO_ANGLE", "ANGLE_TO_PIXELDIST"]


class _Parameters:
    """What the lenses have in common: every parameter is checked, and a dictionary can be made of them."""

    model: ClassVar[str]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "reference_poly":
                continue
            several = name in ("pixeldist_to_angle_poly", "angle_to_pixeldist_poly", "linear_cde")
            numbers = value if several and isinstance(value, tuple) else (value,)
            if several != isinstance(value, tuple) or not all(_is_finite(number) for number in numbers):
                raise ConfigError(
                    f"{self.model}: {name} is {value!r}; expected {'finite numbers' if several else 'a finite number'}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The parameters and the name of the model, as JSON can hold them; `lens_from_dict` reads it."""
        values = asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass
        return {"model": self.model} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
        }


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)


@dataclass(frozen=True, kw_only=True)
class BrownConrady(_Parameters):
    """Radial and tangential distortion of a lens with a normal angle of view; OpenCV's default model.

    With k4, k5, k6 it is OpenCV's rational model. OpenCV's list of coefficients has the order of the fields here.

    >>> lens = BrownConrady(k1=-0.3, k2=0.1)
    >>> lens.to_dict()["k1"], lens.p1
    (-0.3, 0.0)
    """

    model: ClassVar[str] = "brown_conrady"

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0


@dataclass(frozen=True, kw_only=True)
class KannalaBrandt(_Parameters):
    """Fisheye lens whose radius in the image is a polynomial of the ray's angle; OpenCV's `fisheye` model.

    All zero: the equidistant fisheye.

    >>> KannalaBrandt(k1=0.02).to_dict()
    {'model': 'kannala_brandt', 'k1': 0.02, 'k2': 0.0, 'k3': 0.0, 'k4': 0.0}
    """

    model: ClassVar[str] = "kannala_brandt"

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FTheta(_Parameters):
    """NVIDIA's fisheye model: a polynomial between the ray's angle and the distance from the principal point in pixels.

    The principal point is that of the camera's intrinsics (NCore's plus half a pixel); their focal length is not used,
    since the polynomials are in pixels.

    Attributes:
        reference_poly: which of the two polynomials defines the lens; the other approximates its inverse, is not used
            and may be left out.
        pixeldist_to_angle_poly: coefficients of rising powers of the distance, pixels → rad; the first is 0.
        angle_to_pixeldist_poly: coefficients of rising powers of the angle, rad → pixels; the first is 0.
        max_angle: largest angle between a ray and the optical axis that the lens sees, rad.
        linear_cde: c, d, e of the matrix [[c, d], [e, 1]] that is applied to the offset from the principal point.

    >>> FTheta(reference_poly="ANGLE_TO_PIXELDIST", angle_to_pixeldist_poly=(0.0, 500.0), max_angle=1.5).linear_cde
    (1.0, 0.0, 0.0)
    """

    model: ClassVar[str] = "f_theta"

    reference_poly: PolynomialName
    pixeldist_to_angle_poly: tuple[float, ...] = ()
    angle_to_pixeldist_poly: tuple[float, ...] = ()
    max_angle: float = pi
    linear_cde: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_poly not in get_args(PolynomialName):
            raise ConfigError(
                f"{self.model}: reference_poly is {self.reference_poly!r}; expected one of "
                f"{', '.join(get_args(PolynomialName))}"
            )
        name = f"{self.reference_poly.lower()}_poly"
        found = self.reference_polynomial
        if len(found) < 2 or found[0] != 0 or found[1] <= 0:
            raise ConfigError(
                f"{self.model}: {name} is {found}; reference_poly names it, and it should be at least two "
                "coefficients of rising powers, the first 0 and the second positive"
            )
        if not 0 < self.max_angle <= pi:
            raise ConfigError(f"{self.model}: max_angle is {self.max_angle}; expected radians above 0 and up to pi")
        if len(self.linear_cde) != 3 or self.linear_cde[0] <= self.linear_cde[1] * self.linear_cde[2]:
            raise ConfigError(
                f"{self.model}: linear_cde is {self.linear_cde}; expected three numbers c, d, e with c > d e"
            )

    @property
    def reference_polynomial(self) -> tuple[float, ...]:
        """Coefficients of the polynomial that `reference_poly` names."""
        if self.reference_poly == "ANGLE_TO_PIXELDIST":
            return self.angle_to_pixeldist_poly
        return self.pixeldist_to_angle_poly


@dataclass(frozen=True, kw_only=True)
class Mei(_Parameters):
    """Omnidirectional camera: projection onto a sphere, from it by a shifted pinhole, then distortion.

    OpenCV's `omnidir` model. Source: C. Mei and P. Rives, "Single View Point Omnidirectional Camera Calibration from
    Planar Grids", ICRA 2007, section II.

    Attributes:
        xi: distance of the pinhole from the centre of the sphere, 0 or more.

    >>> Mei(xi=1.2, k1=-0.1).xi
    1.2
    """

    model: ClassVar[str] = "mei"

    xi: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xi < 0:
            raise ConfigError(f"{self.model}: xi is {self.xi}; expected a number that is not negative")


Lens: TypeAlias = BrownConrady | KannalaBrandt | FTheta | Mei

LENSES: Final[Mapping[str, type[Lens]]] = {lens.model: lens for lens in (BrownConrady, KannalaBrandt, FTheta, Mei)}
"""Name of a model → its class."""


def lens_from_dict(values: Mapping[str, Any]) -> Lens:
    """A lens from the name of its model and its parameters; parameters that are left out are those of no distortion.

    Raises:
        ConfigError: there is no such model or parameter, one is missing, or a value is not a finite number.

    >>> lens_from_dict({"model": "brown_conrady", "k1": -0.3})
    BrownConrady(k1=-0.3, k2=0.0, p1=0.0, p2=0.0, k3=0.0, k4=0.0, k5=0.0, k6=0.0)
    """
    model = values.get("model")
    if not isinstance(model, str) or model not in LENSES:
        raise ConfigError(f"model: there is no lens {model!r}; expected one of {', '.join(LENSES)}")
    known = [field.name for field in fields(LENSES[model])]
    parameters = {name: value for name, value in values.items() if name != "model"}
    for name in parameters:
        if name not in known:
            hint = " (it is that of the intrinsics, plus half a pixel)" if name == "principal_point" else ""
            raise ConfigError(f"{model}: has no parameter {name!r}{hint}; expected {', '.join(known)}")
    for field in fields(LENSES[model]):
        if field.default is MISSING and field.name not in parameters:
            raise ConfigError(f"{model}: the parameter {field.name!r} is missing")
    build: Callable[..., Lens] = LENSES[model]
    return build(**{name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()})
