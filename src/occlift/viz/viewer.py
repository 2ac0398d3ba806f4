"""A live viewer: a page on this machine through which key frames, labels and predictions are looked at.

The page is viser's. What it wishes to see (`Wish`) is one small value that its controls replace; a thread draws the
latest wish and skips those that were replaced meanwhile, so however fast somebody scrubs, one key frame is read at
a time and none waits in a queue.
"""

from __future__ import annotations

import html
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Float
from PIL import Image

from occlift.errors import OccliftError
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import first_hit
from occlift.label_space import UNKNOWN, LabelSpace
from occlift.scenes.dataset import DrivingDataset
from occlift.viz.canvas import legend_entries, readable_name
from occlift.viz.layers import FrameLayers, Layers, Volume, open_layers
from occlift.viz.mesh import volume_glb
from occlift.viz.scene import (
    FRUSTUM_SIZE_M,
    TRUE_COLORS_JS,
    ColorBy,
    add_camera,
    add_lidar,
    furnish,
    recolored,
    scale_html,
    start_server,
    stop_server,
    write_scene_html,
)

if TYPE_CHECKING:
    from viser import SceneClickEvent

NOTHING: Final = "none"
"""The choice that shows no volume."""

_KEPT_FRAMES: Final = 4
_HINT: Final = "click a voxel to see what it is"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be seen.

    Attributes:
        token: key frame.
        volume: name of the layer, or `NOTHING`.
        color_by: what its colours say.
        images, lidar: whether the cameras with their images, and the lidar's points, are drawn.
        image_size_m: about how far before its camera an image stands, which is how large it is.
    """

    token: str
    volume: str = NOTHING
    color_by: ColorBy = "class"
    images: bool = True
    lidar: bool = True
    image_size_m: float = FRUSTUM_SIZE_M

    @property
    def shown_images(self) -> tuple[str, float] | None:
        """What the drawing of the cameras depends on; None: not drawn."""
        return (self.token, self.image_size_m) if self.images else None


def view(
    *paths: str | Path | DrivingDataset, token: str | None = None, space: LabelSpace | None = None, port: int = 8080
) -> Viewer:
    """Starts a viewer and returns at once; it runs until `Viewer.stop`, or until Python ends.

    Args:
        paths: any mix of one data set (as `open_dataset` takes it, or open), folders of labels, truth or predictions,
            and single files `.npz`.
        token: key frame to begin with, and which single files are of.
        space: grid and classes of the volumes; by default what the manifest of a folder says, else Occ3D's.
        port: of the page; the next free one is taken where it is in use.

    Raises:
        ConfigError: viser is not installed, two paths are data sets, or volumes are about different grids or classes.
        DataError: a path is nothing that can be looked at, or there is no such key frame.

    >>> viewer = view(town, town / "gts")
    >>> viewer.url
    'http://127.0.0.1:...'
    >>> viewer.stop()
    """
    return Viewer(open_layers(*paths, token=token, space=space), port=port)


class Viewer:
    """A page through which layers are looked at. It is reached from this machine alone.

    Attributes:
        layers: what there is.
        server: viser's server, for whoever wants to draw more into the scene.
        wish: what is to be seen.
        notes: what could not be shown of the key frame that is drawn, as sentences.
        picked: index of the voxel that was clicked last; None where none is.
    """

    def __init__(self, layers: Layers, *, port: int = 8080) -> None:
        self.layers = layers
        self.server = start_server(port)
        self.notes: tuple[str, ...] = ()
        self.picked: tuple[int, int, int] | None = None
        self.wish = Wish(token=layers.start, volume=next(iter(layers.names), NOTHING))
        self._drawn: Wish | None = None
        self._frames: OrderedDict[str, FrameLayers] = OrderedDict()
        self._changed = threading.Condition()
        self._entering = threading.RLock()
        self._stopped = False
        self._volume_node = ""
        self._tokens: tuple[str, ...] = ()
        furnish(self.server, layers.space)
        self._build_panel()
        self.server.scene.on_click()(self._on_click)
        self._painter = threading.Thread(target=self._paint, name="occlift viewer", daemon=True)
        self._painter.start()

    @property
    def port(self) -> int:
        return self.server.get_port()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tunnel(self) -> str:
        """The command that brings the page to another machine, where `url` works then, too."""
        return f"ssh -L {self.port}:127.0.0.1:{self.port} {socket.gethostname()}"

    def show(self, token: str) -> None:
        """Goes to a key frame; DataError where there is no such key frame."""
        scene = self.layers.scene_of(token)
        self._scene.value = scene  # type: ignore[misc]
        self._enter(scene, token)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Waits until what is to be seen is drawn."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._drawn == self.wish, timeout_s)
        assert done, f"not drawn after {timeout_s} s: {self.wish}"

    def wait(self) -> None:
        """Waits until the viewer is stopped."""
        with self._changed:
            # A wait without an end cannot be interrupted from the keyboard on every system.
            while not self._stopped:
                self._changed.wait(1.0)

    def stop(self) -> None:
        """Ends the page."""
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            self._changed.notify_all()
        self._painter.join(10.0)
        stop_server(self.server)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Viewer at {self.url} (from another machine: {self.tunnel})"

    # --- the panel -----------------------------------------------------------------------------------------------

    def _build_panel(self) -> None:
        gui, layers, wish = self.server.gui, self.layers, self.wish
        gui.configure_theme(show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        gui.set_panel_label("occlift")
        scene = layers.scene_of(wish.token)
        self._scene = gui.add_dropdown("scene", layers.scenes, initial_value=scene)
        self._slider = gui.add_slider("frame", min=1, max=2, step=1, initial_value=1)
        self._where = gui.add_html("")
        self._volume = gui.add_dropdown(
            "occupancy", (*layers.names, NOTHING), initial_value=wish.volume, visible=bool(layers.names)
        )
        self._color_by = gui.add_dropdown(
            "colour by", ("class", "height", "confidence"), initial_value="class", visible=bool(layers.names)
        )
        has_frames = layers.data is not None
        self._images = gui.add_checkbox("images", has_frames, visible=has_frames)
        self._image_size_m = gui.add_slider(
            "image size", min=1.0, max=12.0, step=0.1, initial_value=FRUSTUM_SIZE_M, visible=has_frames
        )
        self._lidar = gui.add_checkbox(
            "lidar", has_frames, visible=has_frames, hint="coloured by height, from −0.5 m to 4 m"
        )
        self._voxel = gui.add_html("")
        self._legend = gui.add_html("")
        self._notes = gui.add_html("")
        # An image that cannot be decoded, so that its handler runs: viser's pages take no scripts otherwise.
        gui.add_html(f'<img src="data:," hidden alt="" onerror="{html.escape(TRUE_COLORS_JS)}">')
        self._say_voxel()
        self._enter(scene, wish.token)
        self._scene.on_update(lambda _: self._enter(self._scene.value))
        for control in (self._slider, self._volume, self._color_by, self._images, self._image_size_m, self._lidar):
            control.on_update(lambda _: self._read_controls())

    def _enter(self, scene: str, token: str | None = None) -> None:
        """Goes to a scene."""
        with self._entering:
            # The drop-down also answers to `show`, which has gone there already.
            if token is None and self._tokens and self.layers.scene_of(self.wish.token) == scene:
                return
            self._tokens = self.layers.tokens(scene)
            index = 0 if token is None else self._tokens.index(token)
            with self.server.atomic():
                self._slider.visible = len(self._tokens) > 1
                self._slider.max = max(2, len(self._tokens))
                self._slider.value = index + 1  # type: ignore[misc]
            self._read_controls()

    def _read_controls(self) -> None:
        index = min(int(self._slider.value), len(self._tokens)) - 1
        wish = Wish(
            token=self._tokens[index] if self._tokens else self.wish.token,
            volume=self._volume.value,
            color_by=cast(ColorBy, self._color_by.value),
            images=self._images.value,
            lidar=self._lidar.value,
            image_size_m=self._image_size_m.value,
        )
        with self._changed:
            self.wish = wish
            self._changed.notify_all()

    # --- drawing -------------------------------------------------------------------------------------------------

    def _paint(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._drawn != self.wish)
                if self._stopped:
                    return
                wish, before = self.wish, self._drawn
            notes: list[str] = []
            try:
                self._draw(wish, before, notes)
            except Exception as error:
                # A fault of ours must not leave a page that answers to nothing.
                notes.append(f"{type(error).__name__}: {error}")
            with self._changed:
                self._drawn, self.notes = wish, tuple(notes)
                self._changed.notify_all()
            self._notes.content = _paragraphs(notes)

    def _draw(self, wish: Wish, before: Wish | None, notes: list[str]) -> None:
        frame = self._frame(wish.token)
        moved = before is None or before.token != wish.token
        if moved:
            self._where.content = self._place(wish.token)
            self._pick(None)
        if before is None or (before.token, before.volume, before.color_by) != (wish.token, wish.volume, wish.color_by):
            self._draw_volume(frame, wish, notes)
        elif wish.volume != NOTHING:
            noted(lambda: frame.volume(wish.volume), notes)
        if before is None or before.shown_images != wish.shown_images:
            self._draw_cameras(frame, wish, notes)
        elif wish.images:
            notes += (noted(lambda: frame.cameras, notes) or ((), ()))[1]
        if moved or before is None or before.lidar != wish.lidar:
            self._draw_lidar(frame, wish, notes)
        elif wish.lidar:
            noted(lambda: frame.lidar, notes)

    def _draw_volume(self, frame: FrameLayers, wish: Wish, notes: list[str]) -> None:
        scene = self.server.scene
        volume = None if wish.volume == NOTHING else noted(lambda: frame.volume(wish.volume), notes)
        color_by = wish.color_by
        if volume is not None and color_by == "confidence" and volume.confidence is None:
            notes.append(
                f"the {wish.volume} says no confidence (labels do that `occlift label --confidence` made), so it is "
                "coloured by class"
            )
            color_by = "class"
        old, self._volume_node = self._volume_node, ""
        if volume is not None:
            drawn, drawn_space = recolored(volume.semantics, self.layers.space, color_by, volume.confidence)
            glb = volume_glb(drawn, space=drawn_space)
            # Beside the old one, which goes when the new one had time to appear: else the scene blinks.
            self._volume_node = "/volume/1" if old == "/volume/0" else "/volume/0"
            scene.add_glb(self._volume_node, glb, cast_shadow=False)
            self.server.flush()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.wish != wish, 0.1)
        if old:
            scene.remove_by_name(old)
        self._legend.content = _legend(volume, self.layers.space, color_by)

    def _draw_cameras(self, frame: FrameLayers, wish: Wish, notes: list[str]) -> None:
        cameras, unread = (wish.images and noted(lambda: frame.cameras, notes)) or ((), ())
        notes += unread
        with self.server.atomic():
            self._remove("/cameras")
            for number, camera in enumerate(cameras):
                add_camera(
                    self.server.scene, f"/cameras/{number}", camera.rig, camera.thumbnail, size_m=wish.image_size_m
                )

    def _draw_lidar(self, frame: FrameLayers, wish: Wish, notes: list[str]) -> None:
        points_ego = noted(lambda: frame.lidar, notes) if wish.lidar else None
        with self.server.atomic():
            self._remove("/lidar")
            if points_ego is not None:
                add_lidar(self.server.scene, "/lidar", points_ego)

    def _remove(self, node: str) -> None:
        if self.server.scene.get_handle_by_name(node) is not None:
            self.server.scene.remove_by_name(node)

    def _frame(self, token: str) -> FrameLayers:
        """Frames that were seen just now are kept: switching layers, and going back, read nothing again."""
        with self._changed:
            if token not in self._frames:
                self._frames[token] = self.layers.frame(token)
                if len(self._frames) > _KEPT_FRAMES:
                    self._frames.popitem(last=False)
            self._frames.move_to_end(token)
            return self._frames[token]

    def _place(self, token: str) -> str:
        number = self._tokens.index(token) + 1 if token in self._tokens else 1
        return f"<div style='{_TEXT}'>{number} of {len(self._tokens)} · <code>{html.escape(token)}</code></div>"

    # --- picking -------------------------------------------------------------------------------------------------

    def _on_click(self, event: SceneClickEvent) -> None:
        self.pick(np.asarray(event.ray_origin), np.asarray(event.ray_direction))

    def pick(self, origin_m: Float[np.ndarray, "3"], direction: Float[np.ndarray, "3"]) -> None:
        """Picks the first occupied voxel on a ray: marks it, and says in the panel what is known about it."""
        drawn = self._drawn
        if drawn is None or drawn.volume == NOTHING:
            return
        try:
            volume = self._frame(drawn.token).volume(drawn.volume)
        except (OccliftError, OSError):
            return
        grid = self.layers.space.grid
        occupied = volume.semantics < self.layers.space.taxonomy.free
        hit = first_hit(occupied, grid, np.asarray(origin_m, np.float64)[None], np.asarray(direction, np.float64)[None])
        x, y, z = (int(i) for i in hit.voxel[0])
        self._pick((x, y, z) if hit.found[0] else None)

    def _pick(self, voxel: tuple[int, int, int] | None) -> None:
        self.picked = voxel
        with self.server.atomic():
            self._remove("/picked")
            if voxel is not None:
                self.server.scene.add_line_segments(
                    "/picked", _edges(self.layers.space.grid, voxel), (0, 0, 0), thickness=3, thickness_units="screen"
                )
        self._say_voxel()

    def _say_voxel(self) -> None:
        drawn = self._drawn
        if self.picked is None or drawn is None:
            self._voxel.content = f"<div style='{_TEXT}'>{_HINT if self.layers.names else ''}</div>"
            return
        frame = self._frame(drawn.token)
        rows = describe_voxel(frame, self.picked, drawn.volume, self.layers.names)
        cells = "".join(
            f"<tr><td style='padding-right:10px;vertical-align:top;opacity:.65'>{html.escape(name)}</td>"
            f"<td>{html.escape(text)}</td></tr>"
            for name, text in rows
        )
        self._voxel.content = f"<div style='{_TEXT}'><table style='border-collapse:collapse'>{cells}</table></div>"


def describe_voxel(
    frame: FrameLayers, voxel: tuple[int, int, int], shown: str, names: Sequence[str]
) -> list[tuple[str, str]]:
    """What is known about a voxel: names and values.

    Args:
        shown: name of the volume that is looked at, which comes first.
        names: of all volumes.
    """
    space = frame.space
    grid, taxonomy = space.grid, space.taxonomy
    x_m, y_m, z_m = np.asarray(grid.lower_m) + (np.asarray(voxel) + 0.5) * np.asarray(grid.voxel_size_m)
    rows = [
        ("voxel", ", ".join(map(str, voxel))),
        ("centre", f"x {x_m:+.2f}, y {y_m:+.2f}, z {z_m:+.2f} m"),
    ]
    for name in sorted(names, key=lambda name: name != shown):
        try:
            volume = frame.volume(name)
        except (OccliftError, OSError):
            continue
        rows.append((name, readable_name(taxonomy.name_of(int(volume.semantics[voxel])))))
        if volume.confidence is not None:
            rows.append(("  confidence", f"{volume.confidence[voxel] / 255:.2f}"))
        try:
            votes = frame.votes(name)
        except (OccliftError, OSError) as error:
            rows.append(("  votes", str(error)))
            continue
        if votes is not None:
            at_voxel = votes.voxel == np.ravel_multi_index(voxel, grid.shape)
            counts = sorted(zip(votes.count[at_voxel].tolist(), votes.class_id[at_voxel].tolist(), strict=True))[::-1]
            each = [f"{readable_name(taxonomy.name_of(class_id))} {count}" for count, class_id in counts]
            rows.append(("  votes", ", ".join(each) or "none"))
            passed = int(votes.passed[voxel])
            rows.append(("  rays through it", f"{passed}{' or more' if passed == 255 else ''}"))
    return rows


def _edges(grid: VoxelGrid, voxel: tuple[int, int, int]) -> Float[np.ndarray, "12 2 3"]:
    """The edges of a voxel, a little outside of its faces so that these do not hide them, metres."""
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    ends = [(a, b) for a in range(8) for b in range(a) if np.abs(corners[a] - corners[b]).sum() == 1]
    place = np.asarray(voxel) + 0.5 + 1.04 * (corners - 0.5)
    return np.asarray(grid.lower_m) + place[np.asarray(ends)] * np.asarray(grid.voxel_size_m)


_TEXT: Final = "font-size:13px;line-height:1.5;padding:2px 12px;overflow-wrap:anywhere"


def _paragraphs(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<div style='{_TEXT};color:#b3401c'><b>notes</b><ul style='margin:0;padding-left:16px'>{items}</ul></div>"


def _legend(volume: Volume | None, space: LabelSpace, color_by: ColorBy) -> str:
    """What colours mean; classes that the volume does not have are pale."""
    if volume is None:
        return ""
    if color_by != "class":
        return f"<div style='{_TEXT}'>{scale_html(space, color_by)}</div>"
    there = np.bincount(volume.semantics.reshape(-1), minlength=UNKNOWN + 1)
    entries = "".join(
        f"<span style='white-space:nowrap;{'' if there[class_id] else 'opacity:.35'}'><i style='display:inline-block;"
        f"width:11px;height:11px;border-radius:2px;margin-right:6px;background:rgb{color};"
        f"box-shadow:inset 0 0 0 1px #0003'></i>{html.escape(name)}</span>"
        for class_id, (name, color) in enumerate(legend_entries(taxonomy=space.taxonomy, unknown=False))
    )
    return f"<div style='{_TEXT};display:grid;grid-template-columns:1fr 1fr;gap:0 10px'>{entries}</div>"


def write_html(path: Path, layers: Layers, token: str | None = None) -> tuple[str, ...]:
    """Writes the layers of one key frame as one page (`viz.scene`), to be kept and sent.

    Args:
        token: key frame; by default the one that a viewer begins with.

    Returns:
        What could not be shown, as sentences.

    Raises:
        ConfigError: viser is not installed.
        DataError: there is no such key frame.
    """
    token = layers.start if token is None else token
    scene = layers.scene_of(token)
    frame, notes = layers.frame(token), list[str]()
    read = {name: noted(partial(frame.volume, name), notes) for name in layers.names}
    volumes: dict[str, Volume] = {name: volume for name, volume in read.items() if volume is not None}
    cameras, unread = noted(lambda: frame.cameras, notes) or ((), ())
    write_scene_html(
        path,
        {name: volume.semantics for name, volume in volumes.items()},
        space=layers.space,
        cameras=[camera.rig for camera in cameras],
        images=[None if camera.thumbnail is None else Image.fromarray(camera.thumbnail) for camera in cameras],
        points_ego=noted(lambda: frame.lidar, notes),
        confidence={name: volume.confidence for name, volume in volumes.items() if volume.confidence is not None},
        title=f"{scene}, key frame {layers.tokens(scene).index(token) + 1}",
    )
    return (*notes, *unread)


def noted(read: Callable[[], Any], notes: list[str]) -> Any:
    """What a part of a frame is; None where it is missing or damaged, and a note that says so."""
    try:
        return read()
    except (OccliftError, OSError) as error:
        notes.append(str(error))
        return None
