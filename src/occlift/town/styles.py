"""The quarters of the town: what stands where, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Style:
    """What kind of quarter a scene lies in; rates are per 10 m of roadside, shares in 0..1."""

    name: str
    lanes: tuple[int, int]
    sidewalk_m: tuple[float, float]
    building_share: float
    building_height_m: tuple[float, float]
    setback_m: tuple[float, float]
    trees: float
    bushes: float
    parked: float
    truck_share: float
    pedestrians: float
    cyclists: float
    plaza: float
    works: float
    """Probability of road works: barriers, cones, a construction vehicle."""
    yard: float
    """Rate of parked trailers, trucks and containers behind the sidewalk."""


STYLES: Final = (
    Style(name="residential", lanes=(1, 2), sidewalk_m=(1.8, 3.0), building_share=0.72, building_height_m=(3.5, 9.0),
          setback_m=(2.0, 7.0), trees=2.2, bushes=1.6, parked=0.6, truck_share=0.03, pedestrians=0.5, cyclists=0.14,
          plaza=0.12, works=0.4, yard=0.015),
    Style(name="downtown", lanes=(2, 3), sidewalk_m=(3.0, 5.0), building_share=0.92, building_height_m=(7.0, 28.0),
          setback_m=(0.3, 2.5), trees=1.1, bushes=0.4, parked=0.45, truck_share=0.06, pedestrians=2.2, cyclists=0.2,
          plaza=0.3, works=0.5, yard=0.0),
    Style(name="industrial", lanes=(1, 2), sidewalk_m=(1.5, 2.5), building_share=0.6, building_height_m=(5.0, 12.0),
          setback_m=(5.0, 10.0), trees=1.0, bushes=1.0, parked=0.25, truck_share=0.14, pedestrians=0.25, cyclists=0.08,
          plaza=0.3, works=0.75, yard=0.1),
    Style(name="avenue", lanes=(2, 4), sidewalk_m=(2.0, 4.0), building_share=0.6, building_height_m=(5.0, 20.0),
          setback_m=(2.0, 9.0), trees=1.9, bushes=1.1, parked=0.2, truck_share=0.06, pedestrians=0.9, cyclists=0.14,
          plaza=0.2, works=0.55, yard=0.03),
)  # fmt: skip
