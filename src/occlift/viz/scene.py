"""One frame in 3-D as a single HTML file: volumes that can be switched, and the cameras with their images.

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
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.ego_vehicle import EGO_BOXES_M
from occlift.geometry.transforms import quaternion_from_rotation
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.viz.canvas import legend_entries
from occlift.viz.mesh import volume_glb
from occlift.viz.occupancy import EGO_COLOR, place_view

if TYPE_CHECKING:
    from viser import ViserServer

FRUSTUM_SCALE_M: Final = 1.6
THUMBNAIL_WIDTH: Final = 320


def write_scene_html(
    path: Path,
    volumes: Mapping[str, UInt8[np.ndarray, "x y z"]],
    *,
    space: LabelSpace = OCC3D,
    cameras: Sequence[CameraRig] = (),
    images: Sequence[Image.Image] = (),
    title: str = "occlift",
) -> None:
    """Writes the scene; the first volume is shown at the start. About 1 MB, and 0.1 to 1 MB more per volume.

    Args:
        volumes: by the name on their button; class ids and 255 on the space's grid.
        cameras: rigs of one camera each to draw, in the grid's frame.
        images: one for each camera, drawn small in its frustum; may be empty.
        title: title of the page.

    Raises:
        ConfigError: viser is not installed.
    """
    try:
        from viser import ViserServer
    except ImportError as error:
        raise ConfigError("the 3-D scene needs viser: pip install 'occlift[view]'") from error
    assert volumes, "a scene needs at least one volume"
    assert not images or len(images) == len(cameras), (len(images), len(cameras))
    # viser announces its server on stdout whatever it is told; nobody is to connect to it.
    with contextlib.redirect_stdout(io.StringIO()):
        server = ViserServer(host="127.0.0.1", verbose=False)
        try:
            _fill(server, volumes, space, cameras, images)
            page = server.scene.as_html()
        finally:
            server.stop()
    nodes = [f"/volumes/{number}" for number in range(len(volumes))]
    controls = _controls(list(volumes), nodes, title, space.taxonomy)
    head = page.index("<title>"), page.index("</title>")
    page = f"{page[: head[0]]}<title>{html.escape(title)}{page[head[1] :]}"
    body_end = page.rindex("</body>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page[:body_end] + controls + page[body_end:], encoding="utf-8")


def _fill(
    server: ViserServer,
    volumes: Mapping[str, UInt8[np.ndarray, "x y z"]],
    space: LabelSpace,
    cameras: Sequence[CameraRig],
    images: Sequence[Image.Image],
) -> None:
    scene = server.scene
    scene.set_up_direction("+z")
    scene.world_axes.visible = False
    view = place_view(space.grid, eye=(-0.85, 0.35, 0.675), target=(0.075, 0.0, 0.0), fov_rad=np.deg2rad(55))
    server.initial_camera.position = view.eye_m
    server.initial_camera.look_at = view.target_m
    server.initial_camera.fov = view.fov_rad
    for number, semantics in enumerate(volumes.values()):
        scene.add_glb(f"/volumes/{number}", volume_glb(semantics, space=space), visible=number == 0)
    for number, (lower, upper) in enumerate(EGO_BOXES_M):
        scene.add_box(
            f"/ego/{number}",
            color=EGO_COLOR,
            dimensions=tuple(np.subtract(upper, lower)),
            position=tuple(np.add(upper, lower) / 2),
        )
    for number, camera in enumerate(cameras):
        assert camera.num_cameras == 1, camera.num_cameras
        ego_from_camera = camera.ego_from_camera[0].double().numpy()
        focal_px = float(camera.intrinsics_px[0, 1, 1])
        thumbnail = None
        if images:
            image = images[number]
            height = round(THUMBNAIL_WIDTH * image.height / image.width)
            thumbnail = np.asarray(image.convert("RGB").resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS))
        scene.add_camera_frustum(
            f"/cameras/{number}",
            fov=2 * np.arctan(camera.height / 2 / focal_px),
            aspect=camera.width / camera.height,
            scale=FRUSTUM_SCALE_M,
            color=(47, 111, 222),
            image=thumbnail,
            format="jpeg",
            jpeg_quality=80,
            wxyz=quaternion_from_rotation(ego_from_camera[:3, :3]),
            position=ego_from_camera[:3, 3],
        )


def _controls(names: Sequence[str], nodes: Sequence[str], title: str, taxonomy: Taxonomy) -> str:
    """Buttons, a legend, and the script that switches volumes."""
    buttons = "".join(
        f'<button type="button" data-node="{node}">{html.escape(name)}</button>'
        for name, node in zip(names, nodes, strict=True)
    )
    legend = "".join(
        f'<span><i style="background:rgb{color}"></i>{html.escape(name)}</span>'
        for name, color in legend_entries(taxonomy=taxonomy, unknown=False)
    )
    return (
        f"<style>{_CONTROL_CSS}</style>"
        f'<div id="occlift"><b>{html.escape(title)}</b><div id="occlift-volumes" hidden>{buttons}'
        '<button type="button" data-node="/cameras" data-toggle aria-pressed="true">cameras</button></div>'
        f"<p>drag: turn · right drag: move · wheel: closer</p>"
        f'<details open><summary>classes</summary><div class="classes">{legend}</div></details></div>'
        f"<script>{_CONTROL_JS}</script>"
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

_CONTROL_JS: Final = """
(() => {
  const bar = document.getElementById("occlift-volumes");
  const buttons = [...bar.querySelectorAll("button")];
  const volumes = buttons.filter((b) => !("toggle" in b.dataset));
  const visible = (button, on) => {
    const viewer = window.__viserMutable;
    viewer.messageQueue.push(
      {type: "SetSceneNodeVisibilityMessage", name: button.dataset.node, owner: "", visible: on});
    // The class colours of the legend, not what a film would make of them.
    viewer.scene.traverse((object) => {
      if (!object.isMesh || !object.material.map || !object.geometry.attributes.color) return;
      if (!object.material.toneMapped) return;
      object.material.toneMapped = false;
      object.material.map.anisotropy = 8;
      object.material.map.needsUpdate = object.material.needsUpdate = true;
    });
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
    if (!viewer || !viewer.nodeRefFromName || !viewer.nodeRefFromName["/volumes/0"]) return;
    clearInterval(wait);
    bar.hidden = false;
    show(volumes[Number(location.hash.slice(1)) - 1] || volumes[0]);
  }, 100);
})();
"""
