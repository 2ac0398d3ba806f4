"""Colours: materials with procedural textures, sun and shadow, sky with clouds, haze, exposure and sensor noise.

None of it is physically exact; it has to make pictures from which classes can be learned but not read off: every
class comes in many colours, grey appears on roads, walls and cars alike, and light differs from scene to scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16
from numba import prange

from occlift.runtime.kernels import njit
from occlift.town import parts as p
from occlift.town.trace import (
    GROUND,
    MAX_RANGE_M,
    SKY,
    Ground,
    PartIndex,
    in_shadow,
    part_normal,
    to_local,
    trace,
)


class Light(NamedTuple):
    """What a scene's pictures have in common; colours are linear RGB."""

    sun: np.ndarray  # unit vector towards the sun
    sun_color: np.ndarray
    sky_color: np.ndarray  # light from above, and the sky's zenith
    horizon_color: np.ndarray  # haze, and the sky at the horizon
    haze_per_m: float
    clouds: float  # 0 clear .. 1 overcast
    exposure: float
    noise: float  # standard deviation of the sensor noise in units of full scale
    grass: np.ndarray
    asphalt: float
    paving: np.ndarray
    flat: np.ndarray  # colour of other_flat
    seed: int


class Rendered(NamedTuple):
    """One image and its truth; [height, width]."""

    rgb: UInt8[np.ndarray, "h w 3"]
    depth_m: Float[np.ndarray, "h w"]
    class_id: UInt8[np.ndarray, "h w"]
    instance: Int[np.ndarray, "h w"]


@njit(inline="always")
def _hash(i: float, j: float, k: float) -> float:
    """A number in [0, 1) per lattice point."""
    h = (np.uint64(np.int64(i)) * np.uint64(0x9E3779B97F4A7C15)) ^ (
        np.uint64(np.int64(j)) * np.uint64(0xC2B2AE3D27D4EB4F)
    )
    h ^= np.uint64(np.int64(k)) * np.uint64(0x165667B19E3779F9)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return (h >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit
def _noise(x: float, y: float, k: int) -> float:
    """Smooth value noise in [0, 1) with features of unit size."""
    i, j = np.floor(x), np.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    a = _hash(i, j, k) * (1 - fx) + _hash(i + 1, j, k) * fx
    b = _hash(i, j + 1, k) * (1 - fx) + _hash(i + 1, j + 1, k) * fx
    return a * (1 - fy) + b * fy


@njit
def _sky(light: Light, dx: float, dy: float, dz: float) -> tuple[float, float, float]:
    up = max(dz, 0.0)
    blend = np.exp(-4.0 * up)
    r = light.sky_color[0] * (1 - blend) + light.horizon_color[0] * blend
    g = light.sky_color[1] * (1 - blend) + light.horizon_color[1] * blend
    b = light.sky_color[2] * (1 - blend) + light.horizon_color[2] * blend
    u, v = dx / (up + 0.15), dy / (up + 0.15)
    cover = 0.6 * _noise(u * 1.3, v * 1.3, light.seed) + 0.28 * _noise(u * 3.1, v * 3.1, light.seed + 1)
    cover += 0.12 * _noise(u * 7.7, v * 7.7, light.seed + 2)
    cloud = min(max((cover - 0.75 + 0.6 * light.clouds) * 4.0, 0.0), 1.0) * min(1.0, up * 12.0)
    white = 0.65 + 0.3 * (1 - light.clouds)
    glare = max(dx * light.sun[0] + dy * light.sun[1] + dz * light.sun[2], 0.0)
    glow = (1 - light.clouds) * (0.25 * glare**16 + 2.0 * glare**400)
    return (
        r * (1 - cloud) + white * cloud + glow,
        g * (1 - cloud) + white * cloud + glow * 0.95,
        b * (1 - cloud) + 1.03 * white * cloud + glow * 0.8,
    )


@njit
def _ground_albedo(light: Light, class_id: int, paint: int, x: float, y: float) -> tuple[float, float, float]:
    seed = light.seed
    fine, coarse = _noise(x * 9, y * 9, seed + 5), _noise(x * 0.35, y * 0.35, seed + 6)
    if class_id == 11:
        g = light.asphalt * (0.72 + 0.35 * coarse + 0.22 * fine)
        if _noise(x * 0.9, y * 0.9, seed + 7) > 0.86:
            g *= 0.75
        r, gg, b = g, g, g * 1.03
        if paint == 1 or paint == 3:
            worn = 0.72 * (0.6 + 0.4 * _noise(x * 3, y * 3, seed + 8))
            r, gg, b = worn, worn, worn
        elif paint == 2:
            r, gg, b = 0.62, 0.44, 0.06
        return r, gg, b
    if class_id == 13:
        tile = 0.82 if (x % 1.2 < 0.05 or y % 1.2 < 0.05) else 1.0
        k = (
            tile
            * (0.8 + 0.2 * coarse + 0.12 * fine)
            * (0.92 + 0.16 * _hash(np.floor(x / 1.2), np.floor(y / 1.2), seed))
        )
        return light.paving[0] * k, light.paving[1] * k, light.paving[2] * k
    if class_id == 12:
        k = 0.75 + 0.3 * coarse + 0.25 * fine
        if (x + 0.5 * np.floor(y / 0.5)) % 1.0 < 0.08 or y % 0.5 < 0.06:
            k *= 0.7
        return light.flat[0] * k, light.flat[1] * k, light.flat[2] * k
    k = 0.55 + 0.5 * coarse + 0.45 * fine
    soil = min(max((_noise(x * 0.16, y * 0.16, seed + 9) - 0.62) * 6.0, 0.0), 1.0)
    return (
        (light.grass[0] * (1 - soil) + 0.26 * soil) * k,
        (light.grass[1] * (1 - soil) + 0.19 * soil) * k,
        (light.grass[2] * (1 - soil) + 0.12 * soil) * k,
    )


@njit
def _part_albedo(
    row: Float[np.ndarray, "columns"], x: float, y: float, z: float, nx: float, ny: float, nz: float
) -> tuple[float, float, float, float]:
    """Albedo at a point of a part, and how much it mirrors the sky; point and normal in the part's own axes."""
    r, g, b = row[p.COLOR], row[p.COLOR + 1], row[p.COLOR + 2]
    hx, hy, hz = row[p.HALF], row[p.HALF + 1], row[p.HALF + 2]
    seed = int(row[p.SEED] * 97)
    material = int(row[p.MATERIAL])
    k, mirror = 1.0, 0.0
    side = abs(ny) > 0.5
    along = x if side else y  # the horizontal coordinate on a vertical face
    if material == 1:  # facade
        if abs(nz) > 0.5:
            k = 0.55
        else:
            storey, bay = 3.0 + (seed % 5) * 0.12, 1.7 + (seed % 7) * 0.25
            v, u = (z + hz - 0.2) / storey, along / bay
            fv, fu = v - np.floor(v), u - np.floor(u)
            ground_floor = np.floor(v) == 0
            wide = 0.12 if ground_floor else 0.24
            if fu > wide and fu < 1 - wide and fv > 0.28 and fv < 0.82:
                lit = _hash(np.floor(u), np.floor(v), seed)
                shade = 0.05 + 0.12 * lit
                r, g, b, mirror = shade, shade * 1.05, shade * 1.15, 0.35
                if lit > 0.93:
                    r, g, b, mirror = 0.5, 0.42, 0.25, 0.1
            else:
                k = 0.85 + 0.3 * _noise(along * 0.7, z * 0.7, seed)
                if fv < 0.05:
                    k *= 0.75
    elif material == 2:  # car cabin: windows between pillars
        if (
            abs(nz) < 0.6
            and z > -0.75 * hz
            and z < 0.82 * hz
            and (not side or (abs(x) < 0.86 * hx and abs(x) > 0.05 * hx))
        ):
            r, g, b, mirror = 0.03, 0.035, 0.04, 0.4
        else:
            mirror = 0.12
    elif material == 14:  # car body: wheel arches, lights, plates
        mirror = 0.12
        if side:
            for s in range(2):
                wx = x - (0.31 if s == 0 else -0.3) * 2 * hx
                wz = z + hz - 0.12
                if wx * wx + wz * wz < 0.16:
                    k, mirror = 0.12, 0.0
            if abs(z - 0.1 * hz) < 0.04:
                k *= 0.7
        elif abs(nx) > 0.5:
            if abs(y) > 0.62 * hy and z > 0.1 * hz and z < 0.75 * hz:
                if nx > 0:
                    r, g, b = 0.8, 0.8, 0.75
                else:
                    r, g, b = 0.5, 0.02, 0.02
            elif abs(y) < 0.3 * hy and z < 0.0:
                r, g, b = (0.6, 0.6, 0.55) if abs(z + 0.4 * hz) < 0.25 * hz else (0.05, 0.05, 0.05)
    elif material == 4:  # tyre and hub
        d = x * x + z * z
        if abs(ny) > 0.5 and d < 0.3 * hx * hx:
            r, g, b = 0.35, 0.35, 0.36
    elif material == 5:  # foliage
        k = (
            0.45
            + 0.65 * _noise(x * 3.3 + z * 1.7, y * 3.3 - z * 2.3, seed)
            + 0.5 * _noise(x * 9 + z * 7, y * 9 - z * 5, seed + 1)
        )
    elif material == 6:  # bark
        k = 0.7 + 0.6 * _noise(np.arctan2(y, x) * 5, z * 1.5, seed)
    elif material == 7:  # red and white stripes
        if (y + z) % 0.6 < 0.3:
            r, g, b = 0.75, 0.75, 0.74
    elif material == 8:  # cone bands
        h = (z + hz) / (2 * hz)
        if 0.4 < h < 0.56 or 0.68 < h < 0.8:
            r, g, b = 0.8, 0.8, 0.8
    elif material == 9:  # bus: a band of windows
        h = (z + hz) / (2 * hz)
        if abs(nz) < 0.5 and 0.42 < h < 0.82 and not (side and x % 1.5 < 0.12):
            r, g, b, mirror = 0.03, 0.035, 0.04, 0.35
        elif 0.28 < h < 0.36:
            r, g, b = b, r, g
    elif material == 10:  # cargo: corrugated panels
        k = 0.92 if along % 0.5 < 0.25 else 1.05
        if abs(nz) < 0.5 and abs(along) < 0.45 * (hx if side else hy) and abs(z) < 0.25 * hz:
            r, g, b = 0.5 * r + 0.5 * b, 0.7 * g + 0.2, 0.5 * b + 0.4 * r
    elif material == 11:  # cloth
        k = 0.8 + 0.4 * _noise(x * 8 + y * 6, z * 8, seed)
    elif material == 12:  # brick
        row_number = np.floor(z / 0.22)
        if z % 0.22 < 0.03 or (along + 0.3 * (row_number % 2)) % 0.6 < 0.04:
            k = 0.65
        else:
            k = 0.85 + 0.3 * _hash(row_number, np.floor((along + 0.3 * (row_number % 2)) / 0.6), seed)
    elif material == 13 and nx < -0.5 and abs(y) < 0.55 * hy and abs(z) < 0.2 * hz:  # sign
        r, g, b = 0.8, 0.8, 0.8
    return r * k, g * k, b * k, mirror


@njit
def _hit_color(
    ground: Ground, light: Light, static: PartIndex, moving: PartIndex,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, t: float, which: int, is_moving: bool,
) -> tuple[float, float, float, int, int]:  # fmt: skip
    """Linear RGB of what a ray met, with the class and the instance of it."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    mirror, instance = 0.0, 0
    if which == GROUND:
        i = int(np.floor((x - ground.lower_x) / ground.cell_m))
        j = int(np.floor((y - ground.lower_y) / ground.cell_m))
        class_id, paint = 14, 0
        nx, ny, nz = 0.0, 0.0, 1.0
        if 0 <= i < ground.height_m.shape[0] and 0 <= j < ground.height_m.shape[1]:
            class_id, paint = int(ground.class_id[i, j]), int(ground.paint[i, j])
            if z < ground.height_m[i, j] - 0.02:  # on the face of a kerb
                norm = np.sqrt(dx * dx + dy * dy) + 1e-9
                nx, ny, nz = -dx / norm, -dy / norm, 0.0
        r, g, b = _ground_albedo(light, class_id, paint, x, y)
    else:
        row = moving.parts[which] if is_moving else static.parts[which]
        lx, ly, lz = to_local(row, x, y, z)
        ax, ay, nz = part_normal(row, lx, ly, lz)
        r, g, b, mirror = _part_albedo(row, lx, ly, lz, ax, ay, nz)
        nx, ny = row[p.COS] * ax - row[p.SIN] * ay, row[p.SIN] * ax + row[p.COS] * ay
        if row[p.MATERIAL] == 5:  # leaves scatter light: bend the normal
            nx += _noise(lx * 5, lz * 5 + ly * 3, 3) - 0.5
            ny += _noise(ly * 5, lz * 5 - lx * 3, 4) - 0.5
            norm = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / norm, ny / norm, nz / norm
        class_id, instance = int(row[p.CLASS]), int(row[p.INSTANCE])
    lambert = max(nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2], 0.0)
    if lambert > 0 and in_shadow(
        static, moving, x + nx * 2e-3, y + ny * 2e-3, z + nz * 2e-3, light.sun[0], light.sun[1], light.sun[2]
    ):
        lambert = 0.0
    ambient = 0.62 + 0.38 * nz
    out_r = r * (light.sun_color[0] * lambert + light.sky_color[0] * ambient)
    out_g = g * (light.sun_color[1] * lambert + light.sky_color[1] * ambient)
    out_b = b * (light.sun_color[2] * lambert + light.sky_color[2] * ambient)
    if mirror > 0:
        cosine = -(dx * nx + dy * ny + dz * nz)
        sr, sg, sb = _sky(light, dx + 2 * cosine * nx, dy + 2 * cosine * ny, abs(dz + 2 * cosine * nz))
        weight = mirror * (0.35 + 0.65 * (1 - max(cosine, 0.0)) ** 3)
        out_r, out_g, out_b = out_r + weight * sr, out_g + weight * sg, out_b + weight * sb
    fog = 1.0 - np.exp(-light.haze_per_m * t)
    return (
        out_r * (1 - fog) + light.horizon_color[0] * fog,
        out_g * (1 - fog) + light.horizon_color[1] * fog,
        out_b * (1 - fog) + light.horizon_color[2] * fog,
        class_id,
        instance,
    )


@njit(parallel=True)
def _render(
    ground: Ground, light: Light, static: PartIndex, moving: PartIndex, intrinsics: Float[np.ndarray, "3 3"],
    global_from_camera: Float[np.ndarray, "4 4"], height: int, width: int, frame_seed: int,
) -> tuple[
    UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w"], UInt16[np.ndarray, "h w"]
]:  # fmt: skip
    rgb = np.empty((height, width, 3), np.uint8)
    depth = np.empty((height, width), np.float32)
    class_map = np.empty((height, width), np.uint8)
    instance_map = np.zeros((height, width), np.uint16)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    m = global_from_camera
    for v in prange(height):
        for u in range(width):
            a, b = (u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy
            dx = m[0, 0] * a + m[0, 1] * b + m[0, 2]
            dy = m[1, 0] * a + m[1, 1] * b + m[1, 2]
            dz = m[2, 0] * a + m[2, 1] * b + m[2, 2]
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx / length, dy / length, dz / length
            t, which, is_moving = trace(ground, static, moving, m[0, 3], m[1, 3], m[2, 3], dx, dy, dz, MAX_RANGE_M)
            if which == SKY:
                red, green, blue = _sky(light, dx, dy, dz)
                class_map[v, u] = 17
                depth[v, u] = np.inf
            else:
                red, green, blue, class_id, instance = _hit_color(
                    ground, light, static, moving, m[0, 3], m[1, 3], m[2, 3], dx, dy, dz, t, which, is_moving
                )
                class_map[v, u] = class_id
                instance_map[v, u] = instance
                depth[v, u] = t / length
            vignette = 1.0 - 0.12 * (((u - cx) / width) ** 2 + ((v - cy) / width) ** 2) * 4.0
            for k in range(3):
                value = (red if k == 0 else (green if k == 1 else blue)) * light.exposure * vignette
                value = value / (1.0 + 0.25 * value)  # highlights roll off instead of clipping
                value = max(value, 0.0) ** (1 / 2.2)
                # Three uniform numbers make a good enough bell curve.
                grain = -1.5
                for q in range(3):
                    grain += _hash(u * 3 + k, v, frame_seed + q)
                rgb[v, u, k] = np.uint8(min(max(value + 2.0 * light.noise * grain, 0.0), 1.0) * 255.0 + 0.5)
    return rgb, depth, class_map, instance_map


def render_image(
    ground: Ground,
    light: Light,
    static: PartIndex,
    moving: PartIndex,
    *,
    intrinsics_px: Float[np.ndarray, "3 3"],
    global_from_camera: Float[np.ndarray, "4 4"],
    height: int,
    width: int,
    seed: int,
) -> Rendered:
    """An sRGB image with depth along the axis (metres, inf = sky), class (17 = sky) and instance (0 = background)."""
    return Rendered(*_render(ground, light, static, moving, intrinsics_px, global_from_camera, height, width, seed))
