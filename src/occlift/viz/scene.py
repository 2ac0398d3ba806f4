"""One frame in 3-D: its parts as nodes of viser's scene, and all of them as a single HTML file.

The page is viser's own client with the scene inside (`server.scene.as_html()`); nothing is loaded from outside.
That page has no buttons of its own, so a few lines of script are added to it: they put viser's own "set visibility"
message into the queue which its client keeps at `window.__viserMutable`. Where a later viser does not offer that
queue, the buttons stay hidden and the first volume is shown; viser's scene tree (top right) still switches volumes.
"""

from __future__ import annotations

import contextlib
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.ego_vehicle import EGO_BOXES_M
from occlift.geometry.transforms import quaternion_from_rotation
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.runtime.extras import needs_extra
from occlift.runtime.files import write_text
from occlift.viz.canvas import legend_entries
from occlift.viz.mesh import volume_glb
from occlift.viz.occupancy import EGO_COLOR, colored_groups, height_levels, place_view

if TYPE_CHECKING:
    from viser import SceneApi, ViserServer

FRUSTUM_SIZE_M: Final = 1.6
"""About how far before its camera an image stands; viser gives the frusta of narrow and wide lenses equal volumes."""
THUMBNAIL_PX: Final = 320
"""The longer edge of an image in its frustum, pixels."""

ColorBy = Literal["class", "height", "confidence"]

CAMERA_COLOR: Final = (47, 111, 222)

_CONFIDENCE_LEVELS: Final = 16


def write_scene_html(
    path: Path,
    volumes: Mapping[str, UInt8[np.ndarray, "x y z"]],
    *,
    space: LabelSpace = OCC3D,
    cameras: Sequence[CameraRig] = (),
    images: Sequence[Image.Image | None] = (),
    points_ego: Float[np.ndarray, "n 3"] | None = None,
    confidence: Mapping[str, UInt8[np.ndarray, "x y z"]] | None = None,
    title: str = "occlift",
) -> None:
    """Writes the scene; the first volume is shown at the start. About 1 MB, and 0.1 to 1 MB more per volume.

    Args:
        volumes: by the name on their button; class ids and 255 on the space's grid. May be empty.
        cameras: rigs of one camera each to draw, in the grid's frame.
        images: one for each camera, drawn small in its frustum; None leaves a frustum empty. May be empty.
        points_ego: lidar points in the grid's frame, metres; coloured by height.
        confidence: 0..255 for 0..1, by the name of a volume: shown as one more volume, coloured by confidence.
        title: title of the page.

    Raises:
        ConfigError: viser is not installed.
    """
    assert not images or len(images) == len(cameras), (len(images), len(cameras))
    drawn = {name: (semantics, space) for name, semantics in volumes.items()}
    for name, sure in (confidence or {}).items():
        drawn[f"{name}: confidence"] = recolored(volumes[name], space, "confidence", sure)
    server = start_server()
    try:
        furnish(server, space)
        for number, (semantics, its_space) in enumerate(drawn.values()):
            server.scene.add_glb(
                f"/volumes/{number}", volume_glb(semantics, space=its_space), visible=number == 0, cast_shadow=False
            )
        for number, camera in enumerate(cameras):
            image = images[number] if images else None
            add_camera(server.scene, f"/cameras/{number}", camera, None if image is None else _reduced(image))
        if points_ego is not None:
            add_lidar(server.scene, "/lidar", points_ego)
        page = server.scene.as_html()
    finally:
        stop_server(server)
    toggles = {"cameras": bool(cameras), "lidar": points_ego is not None}
    controls = _controls(
        list(drawn),
        [name for name, there in toggles.items() if there],
        title,
        space.taxonomy,
        scale_html(space, "confidence") if confidence else "",
    )
    head = page.index("<title>"), page.index("</title>")
    page = f"{page[: head[0]]}<title>{html.escape(title)}{page[head[1] :]}"
    body_end = page.rindex("</body>")
    write_text(path, page[:body_end] + controls + page[body_end:])


def start_server(port: int = 8080) -> ViserServer:
    """A server of viser that this machine alone can reach, on this port or the next free one.

    Raises:
        ConfigError: viser is not installed, or no port is free.
    """
    with needs_extra("view", "what is drawn in 3-D"):
        from viser import ViserServer
    # viser announces its server on stdout whatever it is told.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return ViserServer(host="127.0.0.1", port=port, verbose=False)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be used ({error}); choose another with --port") from error


def stop_server(server: ViserServer) -> None:
    """Ends a server without viser's word about it on stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def furnish(server: ViserServer, space: LabelSpace) -> None:
    """What every scene has: z up, the view at the start, and the ego vehicle."""
    scene = server.scene
    scene.set_up_direction("+z")
    scene.world_axes.visible = False
    view = place_view(space.grid, eye=(-0.85, 0.35, 0.675), target=(0.075, 0.0, 0.0), fov_rad=np.deg2rad(55))
    server.initial_camera.position = view.eye_m
    server.initial_camera.look_at = view.target_m
    server.initial_camera.fov = view.fov_rad
    for number, (lower, upper) in enumerate(EGO_BOXES_M):
        scene.add_box(
            f"/ego/{number}",
            color=EGO_COLOR,
            dimensions=tuple(np.subtract(upper, lower)),
            position=tuple(np.add(upper, lower) / 2),
        )


def recolored(
    semantics: UInt8[np.ndarray, "x y z"],
    space: LabelSpace,
    by: ColorBy,
    confidence: UInt8[np.ndarray, "x y z"] | None = None,
) -> tuple[UInt8[np.ndarray, "x y z"], LabelSpace]:
    """A volume with what it is coloured by as classes, and the space of these."""
    if by == "class":
        return semantics, space
    occupied = semantics < space.taxonomy.free
    if by == "height":
        levels, taxonomy = height_levels(occupied)
    else:
        assert confidence is not None, "colours by confidence need one"
        level = confidence.astype(np.uint16) * _CONFIDENCE_LEVELS // 256
        levels = np.where(occupied, level.astype(np.uint8), np.uint8(UNKNOWN))
        taxonomy = colored_groups("confidence", _colors("plasma", np.linspace(0.02, 0.95, _CONFIDENCE_LEVELS)))
    return levels, LabelSpace(grid=space.grid, taxonomy=taxonomy)


def scale_html(space: LabelSpace, by: Literal["height", "confidence"]) -> str:
    """What the colours by height or by confidence mean: a bar of them with its ends."""
    layers = space.grid.shape[2] if by == "height" else 256
    column = np.zeros((1, 1, layers), np.uint8)
    levels, colored = recolored(column, space, by, np.arange(layers).astype(np.uint8).reshape(column.shape))
    shades = ",".join(f"rgb{colored.taxonomy.palette[level]}" for level in dict.fromkeys(levels.reshape(-1).tolist()))
    lower, upper = (
        ("0", "1") if by == "confidence" else (f"{space.grid.lower_m[2]:.1f} m", f"{space.grid.upper_m[2]:.1f} m")
    )
    return (
        f'<div style="height:12px;border-radius:3px;background:linear-gradient(to right,{shades})"></div>'
        f'<div style="display:flex;justify-content:space-between"><span>{lower}</span><span>{by}</span>'
        f"<span>{upper}</span></div>"
    )


def add_camera(
    scene: SceneApi,
    node: str,
    camera: CameraRig,
    image: UInt8[np.ndarray, "height width 3"] | None,
    *,
    size_m: float = FRUSTUM_SIZE_M,
) -> None:
    """The frustum of a rig of one camera, in the frame of the scene, with an image in it."""
    assert camera.num_cameras == 1, camera.num_cameras
    ego_from_camera = camera.ego_from_camera[0].double().numpy()
    focal_x_px, focal_y_px = (float(camera.intrinsics_px[0, axis, axis]) for axis in (0, 1))
    scene.add_camera_frustum(
        node,
        fov=2 * np.arctan(camera.height / 2 / focal_y_px),
        aspect=camera.width / camera.height * (focal_y_px / focal_x_px),
        scale=size_m,
        color=CAMERA_COLOR,
        image=image,
        format="jpeg",
        jpeg_quality=80,
        wxyz=quaternion_from_rotation(ego_from_camera[:3, :3]),
        position=ego_from_camera[:3, 3],
    )


def add_lidar(scene: SceneApi, node: str, points_ego: Float[np.ndarray, "n 3"]) -> None:
    """Points of a lidar, metres in the frame of the scene, coloured by height from −0.5 to 4 m."""
    share = np.clip((points_ego[:, 2] + 0.5) / 4.5, 0.0, 1.0)
    scene.add_point_cloud(
        node,
        points_ego.astype(np.float32),
        _colors("viridis", share),
        point_size=0.08,
        point_shape="circle",
        point_shading="flat",
        precision="float32",
    )


def _colors(colormap: str, share: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    import matplotlib

    return np.round(255 * matplotlib.colormaps[colormap](share)[:, :3]).astype(np.uint8)


def _reduced(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    scale = THUMBNAIL_PX / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def _controls(volumes: Sequence[str], toggles: Sequence[str], title: str, taxonomy: Taxonomy, scale: str) -> str:
    """Buttons, a legend, and the script that switches volumes."""
    buttons = "".join(
        f'<button type="button" data-node="/volumes/{number}">{html.escape(name)}</button>'
        for number, name in enumerate(volumes)
    ) + "".join(
        f'<button type="button" data-node="/{name}" data-toggle aria-pressed="true">{name}</button>' for name in toggles
    )
    legend = "".join(
        f'<span><i style="background:rgb{color}"></i>{html.escape(name)}</span>'
        for name, color in legend_entries(taxonomy=taxonomy, unknown=False)
    )
    return (
        f"<style>{_CONTROL_CSS}</style>"
        f'<div id="occlift"><b>{html.escape(title)}</b><div id="occlift-volumes" hidden>{buttons}</div>'
        f"<p>drag: turn · right drag: move · wheel: closer</p>"
        f'<details open><summary>classes</summary><div class="classes">{legend}</div>{scale}</details></div>'
        f"<script>{_CONTROL_JS}{TRUE_COLORS_JS}</script>"
    )


_CONTROL_CSS: Final = """
#occlift{position:fixed;left:14px;bottom:14px;z-index:5;max-width:min(330px,calc(100vw - 28px));padding:12px 14px;
border-radius:10px;background:#fffffff0;color:#1d2129;
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
box-shadow:0 2px 14px #0002}
#occlift b{display:block;margin-bottom:8px;overflow-wrap:anywhere}
#occlift p{margin:8px 0;color:#626a78;font-size:12px}
#occlift button{font:inherit;padding:4px 11px;margin:0 5px 5px 0;border:1px solid #cdd2db;border-radius:7px;
background:#fff;color:inherit;cursor:pointer}
#occlift button[aria-pressed=true]{background:#2f6fde;border-color:#2f6fde;color:#fff}
#occlift summary{cursor:pointer;color:#626a78;font-size:12px}
#occlift .classes{display:grid;grid-template-columns:1fr 1fr;gap:1px 10px;font-size:12px;margin-top:6px;
white-space:nowrap}
#occlift .classes i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px;
box-shadow:inset 0 0 0 1px #0003}
"""

TRUE_COLORS_JS: Final = """
(() => {
  const wait = setInterval(() => {
    const viewer = window.__viserMutable;
    if (!viewer || !viewer.scene) return;
    clearInterval(wait);
    // The class colours of the legend, not what a film would make of them; and edges of voxels that stay sharp.
    viewer.scene.onBeforeRender = (renderer) => {
      renderer.toneMapping = 0;
      viewer.scene.traverse((object) => {
        const map = object.isMesh && object.geometry.attributes.color && object.material.map;
        if (map && map.anisotropy < 8) {
          map.anisotropy = 8;
          map.needsUpdate = true;
        }
      });
    };
    viewer.requestRender();
  }, 100);
})();
"""
"""For pages with viser's client: shows colours as they are. Does nothing where a later viser has no such objects."""

_CONTROL_JS: Final = """
(() => {
  const bar = document.getElementById("occlift-volumes");
  const buttons = [...bar.querySelectorAll("button")];
  const volumes = buttons.filter((b) => !("toggle" in b.dataset));
  const visible = (button, on) => {
    const viewer = window.__viserMutable;
    viewer.messageQueue.push(
      {type: "SetSceneNodeVisibilityMessage", name: button.dataset.node, owner: "", visible: on});
    viewer.requestRender();
    button.setAttribute("aria-pressed", String(on));
  };
  const show = (chosen) => volumes.forEach((b) => visible(b, b === chosen));
  buttons.forEach((b) => b.addEventListener("click", () =>
    "toggle" in b.dataset ? visible(b, b.getAttribute("aria-pressed") !== "true") : show(b)));
  addEventListener("keydown", (e) => {
    const chosen = volumes[Number(e.key) - 1];
    if (chosen && !bar.hidden) show(chosen);
  });
  const wait = setInterval(() => {
    const viewer = window.__viserMutable;
    if (!viewer || !viewer.nodeRefFromName || !buttons.every((b) => viewer.nodeRefFromName[b.dataset.node])) return;
    clearInterval(wait);
    bar.hidden = false;
    if (volumes.length) show(volumes[Number(location.hash.slice(1)) - 1] || volumes[0]);
  }, 100);
})();
"""
