"""Pictures, overlays, the report and the 3-D scene: expected colours at places that are computed independently."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import (
    BUS,
    CAR,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    OCC3D,
    PEDESTRIAN,
    TERRAIN,
    UNKNOWN,
    LabelSpace,
)
from occlift.scenes import open_dataset
from occlift.viz.birds_eye import Box, birds_eye_image, pixel_in_birds_eye
from occlift.viz.canvas import UNKNOWN_COLOR, class_palette, color_scale, legend, legend_entries, panel
from occlift.viz.curves import Curve, Series, curve_svg
from occlift.viz.mesh import visible_rectangles, volume_glb
from occlift.viz.occupancy import chase_view, height_levels, perspective_image, pixel_from_above, top_view
from occlift.viz.overlay import depth_colors, draw_classes, draw_depth, draw_lidar, draw_occupancy, draw_points
from occlift.viz.report import (
    Report,
    ReportFrame,
    ScoreRow,
    Scores,
    Stage,
    VolumePictures,
    compare_with_baselines,
    report_html,
)
from occlift.viz.scene import write_scene_html

SMALL_GRID = VoxelGrid(lower_m=(-4.0, -4.0, -1.0), voxel_size_m=(1.0, 1.0, 0.5), shape=(8, 8, 4))
SMALL_SPACE = LabelSpace(grid=SMALL_GRID, taxonomy=OCC3D.taxonomy)
# Camera axes (x right, y down, z forward) of a camera that looks along the ego's x.
EGO_FROM_FORWARD_CAMERA = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def hue_of(color: tuple[int, ...]) -> np.ndarray:
    """A colour without its brightness: shading must not change this."""
    value = np.asarray(color, dtype=float)
    return value / np.linalg.norm(value)


def volume(grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    return np.full(grid.shape, FREE, dtype=np.uint8)


def forward_rig(height: int = 90, width: int = 160) -> CameraRig:
    """One camera at (1, 0, 1.5) of the ego frame that looks forward, focal length 100 px."""
    intrinsics_px = torch.tensor([[[100.0, 0, width / 2], [0, 100.0, height / 2], [0, 0, 1]]], dtype=torch.float64)
    ego_from_camera = torch.tensor(rigid_transform(EGO_FROM_FORWARD_CAMERA, (1.0, 0.0, 1.5)))[None]
    return CameraRig(intrinsics_px=intrinsics_px, ego_from_camera=ego_from_camera, height=height, width=width)


# --- voxelising -----------------------------------------------------------------------------------------------------


def test_points_occupy_exactly_the_voxels_that_hold_them() -> None:
    points = np.array([[-40.0, -40.0, -1.0], [0.1, 0.1, 0.1], [0.2, 0.3, 0.15], [40.0, 0, 0], [np.nan, 0, 0]])
    occupied = OCC3D_GRID.occupied_by(points)
    assert set(map(tuple, np.argwhere(occupied))) == {(0, 0, 0), (100, 100, 2)}


# --- perspective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voxel", "class_id"), [((130, 100, 4), CAR), ((120, 60, 2), BUS), ((170, 130, 8), PEDESTRIAN)]
)
def test_a_voxel_appears_at_its_projected_pixel(voxel: tuple[int, int, int], class_id: int) -> None:
    semantics = volume()
    semantics[voxel] = class_id
    picture = np.asarray(perspective_image(semantics, height=540, width=960, ego=False)).astype(float)
    drawn = np.argwhere(picture.min(axis=2) < 250)
    pixels, _ = chase_view(OCC3D_GRID).project(OCC3D_GRID.centers()[voxel][None], 540, 960)
    u, v = pixels[0]
    assert abs(drawn[:, 1].mean() + 0.5 - u) < 1.0
    assert abs(drawn[:, 0].mean() + 0.5 - v) < 1.0
    # Haze mixes some paper in: compared with every class, the right one must be nearest.
    likeness = [hue_of(picture[int(v), int(u)]) @ hue_of(color) for color in OCC3D.taxonomy.palette[:FREE]]
    assert int(np.argmax(likeness)) == class_id


def test_free_and_unknown_voxels_are_not_drawn_in_perspective() -> None:
    semantics = volume()
    semantics[100:] = UNKNOWN
    picture = perspective_image(semantics, height=60, width=100, ego=False)
    assert np.asarray(picture).min() == 255


def test_a_voxel_in_front_hides_the_one_behind_it() -> None:
    behind, both = volume(), volume()
    behind[150:152, 99:101, 0:2] = BUS
    both[150:152, 99:101, 0:2] = BUS
    both[140:142, 90:110, 0:14] = MANMADE
    pictures = [np.asarray(perspective_image(s, height=270, width=480, ego=False)) for s in (behind, both)]
    yellow = [((p[..., 0] > 150) & (p[..., 2] < 120)).sum() for p in pictures]
    assert yellow[0] > 10
    assert yellow[1] == 0


def test_the_sun_throws_shadows() -> None:
    semantics = volume()
    semantics[:, :, 0] = TERRAIN
    semantics[120:124, 98:102, 1:12] = MANMADE
    with_shadow = np.asarray(perspective_image(semantics, height=135, width=240, ego=False)).astype(int)
    without = np.asarray(perspective_image(semantics, height=135, width=240, ego=False, shadows=False)).astype(int)
    darker = (without - with_shadow).sum(axis=2)
    assert darker.min() >= 0
    assert 20 < (darker > 30).sum() < 2000


def test_the_ego_marker_stands_at_the_origin() -> None:
    plain = np.asarray(perspective_image(volume(), height=270, width=480))
    u, v = chase_view(OCC3D_GRID).project(np.array([[0.8, 0.0, 1.55]]), 270, 480)[0][0]
    assert plain[int(v), int(u)].max() < 110


# --- from above -----------------------------------------------------------------------------------------------------


def test_top_view_shows_the_highest_class_where_it_belongs() -> None:
    semantics = volume()
    semantics[:, :, 0] = TERRAIN
    semantics[150, 40, 3] = CAR
    semantics[150, 40, 2] = BUS
    picture = np.asarray(top_view(semantics, pixels_per_voxel=3, ego=False)).astype(float)
    assert picture.shape == (600, 600, 3)
    x_m, y_m, _ = OCC3D_GRID.centers()[150, 40, 0]
    u, v = pixel_from_above((x_m, y_m), OCC3D_GRID, 3)
    assert u > 300, "y = −24 m lies to the right"
    assert v < 300, "x = 20 m lies ahead, which is up"
    assert hue_of(picture[int(v), int(u)]) @ hue_of(OCC3D.taxonomy.palette[CAR]) > 0.99
    assert hue_of(picture[int(v), int(u) + 6]) @ hue_of(OCC3D.taxonomy.palette[TERRAIN]) > 0.99


def test_top_view_tells_unknown_from_free() -> None:
    semantics = volume()
    semantics[:100] = UNKNOWN
    picture = np.asarray(top_view(semantics, pixels_per_voxel=3, ego=False))
    free, unknown = picture[20:280, 20:580], picture[320:580, 20:580]
    assert (free == 255).all()
    colors = {tuple(int(c) for c in color) for color in unknown.reshape(-1, 3)}
    assert UNKNOWN_COLOR in colors
    assert len(colors) == 2, "hatched: lines and what is between them"
    assert (255, 255, 255) not in colors


def test_height_levels_keep_the_occupied_voxels() -> None:
    occupied = np.zeros(OCC3D_GRID.shape, dtype=bool)
    occupied[3, 4, [0, 15]] = True
    ids, levels = height_levels(occupied)
    np.testing.assert_array_equal(ids < levels.free, occupied)
    assert ids[3, 4, 0] != ids[3, 4, 15]
    assert len(set(levels.palette)) == levels.num_classes


# --- on images ------------------------------------------------------------------------------------------------------


def test_a_lidar_point_lands_on_its_analytic_pixel() -> None:
    image = np.zeros((90, 160, 3), dtype=np.uint8)
    # 10 m in front of the camera, 2 m to the left, 1 m above it: u = 80 − 100·2/10, v = 45 − 100·1/10.
    drawn = draw_lidar(image, forward_rig(), np.array([[11.0, 2.0, 2.5], [-5.0, 0.0, 1.0]]), radius_px=0)
    np.testing.assert_array_equal(np.argwhere(drawn.any(axis=2)), [[35, 60]])
    np.testing.assert_array_equal(drawn[35, 60], depth_colors(np.array([10.0]))[0])
    assert not image.any(), "the input is left alone"


def test_ego_motion_between_lidar_and_image_moves_the_point() -> None:
    rig = forward_rig()
    moved = rig.ego_from_camera.clone()
    moved[0, 0, 3] -= 1.0  # the camera fired when the ego was still 1 m further back
    earlier = CameraRig(intrinsics_px=rig.intrinsics_px, ego_from_camera=moved, height=rig.height, width=rig.width)
    drawn = draw_lidar(np.zeros((90, 160, 3), np.uint8), earlier, np.array([[11.0, 2.2, 2.6]]), radius_px=0)
    np.testing.assert_array_equal(np.argwhere(drawn.any(axis=2)), [[35, 60]])


def test_nearer_points_cover_farther_ones_whatever_their_order() -> None:
    pixels, depth_m = np.array([[10.5, 10.5], [11.5, 10.5]]), np.array([5.0, 50.0])
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    drawn = draw_points(image, pixels, depth_m)
    np.testing.assert_array_equal(drawn, draw_points(image, pixels[::-1], depth_m[::-1]))
    near = depth_colors(np.array([5.0]))[0]
    assert (drawn[9:12, 9:12] == near).all()


def test_points_at_the_image_border_do_not_wrap() -> None:
    drawn = draw_points(np.zeros((20, 20, 3), np.uint8), np.array([[0.5, 0.5], [-0.5, 10.0]]), np.array([5.0, 5.0]))
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert rows.max() == 1
    assert columns.max() == 1


def test_occupancy_covers_the_projection_of_its_voxel() -> None:
    semantics = volume()
    voxel = (127, 105, 5)
    semantics[voxel] = CAR
    image = np.full((90, 160, 3), 100, dtype=np.uint8)
    drawn = draw_occupancy(image, forward_rig(), semantics, opacity=1.0)
    center = OCC3D_GRID.centers()[voxel]
    depth_m = center[0] - 0.2 - 1.0  # of the face that the camera sees
    u, v = 80 - 100 * center[1] / depth_m, 45 - 100 * (center[2] - 1.5) / depth_m
    changed = np.argwhere((drawn != image).any(axis=2))
    assert abs(changed[:, 1].mean() + 0.5 - u) < 1.0
    assert abs(changed[:, 0].mean() + 0.5 - v) < 1.0
    assert len(changed) == pytest.approx((100 * 0.4 / depth_m) ** 2, rel=0.35)
    assert hue_of(drawn[int(v), int(u)]) @ hue_of(OCC3D.taxonomy.palette[CAR]) > 0.99


def test_the_voxel_about_the_camera_is_looked_through() -> None:
    semantics = volume()
    index, _ = OCC3D_GRID.indices(np.array([1.0, 0.0, 1.5]))
    semantics[tuple(index)] = MANMADE
    image = np.full((90, 160, 3), 100, dtype=np.uint8)
    np.testing.assert_array_equal(draw_occupancy(image, forward_rig(), semantics), image)


def test_class_and_depth_maps() -> None:
    image = np.full((2, 3, 3), 50, dtype=np.uint8)
    class_map = np.array([[CAR, UNKNOWN, FREE], [CAR, UNKNOWN, FREE]], dtype=np.uint8)
    drawn = draw_classes(image, class_map, opacity=1.0)
    assert tuple(drawn[0, 0]) == OCC3D.taxonomy.palette[CAR]
    assert tuple(drawn[0, 1]) == (50, 50, 50)
    assert drawn[0, 2, 2] > 200, "sky is blue"
    depth = draw_depth(np.array([[5.0, np.inf], [40.0, np.nan]]))
    assert depth[0, 1].max() < 40
    assert depth[1, 1].max() < 40
    assert depth[0, 0, 0] > depth[1, 0, 0], "near is red"


# --- bird's eye -----------------------------------------------------------------------------------------------------


def turned_box() -> Box:
    return Box(
        ego_from_box=rigid_transform(rotation_about_z(np.pi / 2), (10.0, 5.0, 1.0)),
        size_lwh_m=(4.0, 2.0, 1.6),
        class_id=CAR,
    )


def test_footprint_turns_with_the_box() -> None:
    # Length 4 now runs along y: the front's left corner is at smaller x and larger y.
    np.testing.assert_allclose(turned_box().footprint(), [(9, 7), (11, 7), (11, 3), (9, 3)], atol=1e-12)


def test_box_holds_points_in_its_own_axes() -> None:
    points = np.array([[10.0, 6.9, 1.0], [11.5, 5.0, 1.0], [10.0, 5.0, 1.7], [10.0, 5.0, 1.9]])
    np.testing.assert_array_equal(turned_box().holds(points), [True, False, True, False])


def test_birds_eye_shows_points_and_boxes_where_they_are() -> None:
    picture = np.asarray(
        birds_eye_image(
            np.array([[20.0, -30.0, 1.0]]), boxes=[turned_box()], cameras=[forward_rig()], camera_names=["front"]
        )
    ).astype(int)
    u, v = pixel_in_birds_eye(20.0, -30.0)
    assert u > 500 > v
    assert picture[int(v) - 1 : int(v) + 2, int(u) - 1 : int(u) + 2].min() < 120
    u, v = pixel_in_birds_eye(11.0, 4.0)
    edge = picture[int(v) - 1 : int(v) + 2, int(u) - 2 : int(u) + 3].reshape(-1, 3)
    assert (edge[:, 2] - edge[:, 0]).max() > 80, "a blue line, as cars are"


# --- legends and panels ---------------------------------------------------------------------------------------------


def test_a_scale_runs_from_the_first_colour_to_the_last() -> None:
    colors = np.array([(200, 0, 0), (0, 150, 0), (0, 0, 100)], np.uint8)
    row = np.asarray(color_scale("height", "0 m", "9 m", colors))[11]
    places = [np.flatnonzero((row == color).all(axis=-1)) for color in colors]
    lengths = [len(place) for place in places]
    assert max(lengths) - min(lengths) <= 1, lengths
    assert (np.diff(np.concatenate(places)) == 1).all(), "one bar, in order"


def test_legend_names_and_draws_all_17_classes() -> None:
    entries = dict(legend_entries())
    assert len(entries) == 18
    for class_id, name in enumerate(OCC3D.taxonomy.all_names[:FREE]):
        assert entries[name.replace("_", " ")] == OCC3D.taxonomy.palette[class_id]
    drawn = {tuple(int(c) for c in color) for color in np.unique(np.asarray(legend(900)).reshape(-1, 3), axis=0)}
    assert set(OCC3D.taxonomy.palette[:FREE]) <= drawn


def test_palette_gives_unknown_a_colour_that_no_class_has() -> None:
    palette = class_palette()
    assert tuple(palette[UNKNOWN]) == UNKNOWN_COLOR
    assert UNKNOWN_COLOR not in OCC3D.taxonomy.palette


def test_panel_places_pictures_row_by_row() -> None:
    tiles = [Image.new("RGB", (10, 5), (index * 40, 0, 0)) for index in range(4)]
    sheet = np.asarray(panel(tiles, 3, gap_px=2))
    assert sheet.shape == (2 * 7 + 2, 3 * 12 + 2, 3)
    assert [int(sheet[2, 2 + 12 * column, 0]) for column in range(3)] == [0, 40, 80]
    assert int(sheet[9, 2, 0]) == 120


# --- report ---------------------------------------------------------------------------------------------------------

NASTY = '<script>alert("x")</script> & friends'


def score_row(name: str, role: str, miou: float) -> ScoreRow:
    scores = Scores(iou=40.0, miou=(miou, miou + 1))
    return ScoreRow(
        name=name,
        role=role,  # type: ignore[arg-type]
        with_camera_mask=scores,
        without_mask=scores,
        ray_iou=miou / 2,
        class_iou=(*(miou,) * 16, None),
        note=NASTY,
    )


@pytest.fixture(scope="module")
def report_page() -> str:
    picture = Image.new("RGB", (32, 18), (10, 200, 30))
    pictures = VolumePictures(name=NASTY, perspective=picture, above=picture)
    rows = (
        score_row("prior", "baseline", 7.0),
        score_row("blind", "baseline", 5.0),
        score_row("labels", "reference", 40.0),
        score_row("EasyOcc", "model", 14.0),
    )
    steps = tuple(float(step) for step in range(100))
    return report_html(
        Report(
            title=NASTY,
            summary=NASTY,
            command=f"occlift demo {NASTY}",
            rows=rows,
            frames=(ReportFrame(title=NASTY, images=((NASTY, picture),) * 6, volumes=(pictures,) * 3),),
            curves=(
                Curve(title=NASTY, x_label="step", y_label="loss", series=(Series(name="a<b", x=steps, y=steps),)),
            ),
            stages=(Stage(name="town", seconds=92.4, peak_memory_gb=0.5, note=NASTY),),
            facts=(("torch", NASTY),),
            links=(("scene.html", NASTY),),
        )
    )


class PageReader(HTMLParser):
    """Collects tags, what they would load, and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "action") or (name == "href" and tag != "a"):
                self.loads.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_report_loads_nothing_from_outside(report_page: str) -> None:
    reader = PageReader()
    reader.feed(report_page)
    assert sum(tag == "img" for tag in reader.tags) == 6 + 2 * 3
    assert all(load.startswith(("data:image/", "#")) for load in reader.loads), [x[:60] for x in reader.loads]
    assert not re.search(r"(https?:)?//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", report_page))
    assert "@import" not in report_page
    assert "url(#" in report_page or "url(" not in report_page


def test_report_escapes_every_text(report_page: str) -> None:
    reader = PageReader()
    reader.feed(report_page)
    assert "script" not in reader.tags
    assert "alert(&quot;x&quot;)" in report_page
    # Title and headline, summary, command, four notes, frame, six images, three volumes, curve, stage, fact, link.
    assert "".join(reader.text).count(NASTY) == 22


def test_report_marks_the_best_contender_and_states_the_ratio(report_page: str) -> None:
    assert "2.00×" in report_page
    best = re.findall(r'<td class="best[^"]*">([\d.]+)</td>', report_page)
    assert "14.00" in best
    assert "40.00" in best, "all IoU are equal: each contender is best"
    labels = re.search(r'<tr class="reference">.*?</tr>', report_page)
    assert labels is not None
    assert "best" not in labels.group(), "the labels' own score is no contender"
    assert report_page.count('<td class="absent">–</td>') == 4
    assert "1 min 32 s" in report_page


def test_comparison_names_the_best_baseline_of_each_score() -> None:
    rows = [score_row("prior", "baseline", 5.0), score_row("blind", "baseline", 7.0), score_row("net", "model", 14.0)]
    prior = replace(rows[0], with_camera_mask=replace(rows[0].with_camera_mask, iou=54.9))
    model = replace(rows[2], with_camera_mask=replace(rows[2].with_camera_mask, iou=52.8))
    found = compare_with_baselines([prior, rows[1], model])
    assert found is not None
    assert (found.baseline.name, found.baseline_by_iou.name, found.ratio) == ("blind", "prior", 2.0)
    assert "its IoU is not above that of prior (52.80 against 54.90)" in str(found)
    assert compare_with_baselines([prior]) is None


def test_curve_is_a_bare_svg_in_the_colours_of_the_page() -> None:
    curve = Curve(title="t", x_label="step", y_label="loss", series=(Series(name="a", x=(0, 1, 2), y=(3, 2, 1)),))
    svg = curve_svg(curve)
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "currentColor" in svg
    assert "http" not in svg
    assert ">loss</text>" in svg
    assert svg == curve_svg(curve), "the same bytes again"


# --- 3-D scene ------------------------------------------------------------------------------------------------------


def test_rectangles_cover_exactly_the_visible_faces() -> None:
    generator = np.random.default_rng(7)
    semantics = generator.choice(np.array([CAR, BUS, FREE, UNKNOWN], dtype=np.uint8), size=(5, 4, 3))
    faces = visible_rectangles(semantics)
    occupied = np.pad(semantics < FREE, 1)
    expected = sum(int((occupied & ~np.roll(occupied, step, axis)).sum()) for axis in range(3) for step in (-1, 1))
    sides = faces.corners[:, 1] - faces.corners[:, 0], faces.corners[:, 3] - faces.corners[:, 0]
    normals = np.cross(*sides)
    area = np.linalg.norm(normals, axis=1)
    assert area.sum() == expected
    outward = np.eye(3)[faces.axis] * np.where(faces.side, 1, -1)[:, None]
    np.testing.assert_allclose(normals / area[:, None], outward)
    for corners, class_id, normal in zip(faces.corners, faces.class_id, outward, strict=True):
        center = corners.mean(axis=0)
        inside = np.floor(corners.min(axis=0) + 0.5 * (normal == 0) - 0.5 * normal).astype(int)
        assert semantics[tuple(inside)] == class_id
        assert np.isfinite(center).all()


def test_faces_of_one_class_in_a_row_become_one_rectangle() -> None:
    semantics = np.full((6, 1, 1), MANMADE, dtype=np.uint8)
    assert len(visible_rectangles(semantics).corners) < 6 * 4
    semantics[3] = CAR
    assert set(visible_rectangles(semantics).class_id.tolist()) == {MANMADE, CAR}


def test_glb_is_well_formed_and_in_metres() -> None:
    semantics = volume(SMALL_GRID)
    semantics[2, 3, 1] = CAR
    blob = volume_glb(semantics, space=SMALL_SPACE)
    assert blob[:4] == b"glTF"
    assert int.from_bytes(blob[8:12], "little") == len(blob)
    length = int.from_bytes(blob[12:16], "little")
    document = json.loads(blob[20 : 20 + length])
    positions = document["accessors"][0]
    scale, translation = np.array(document["nodes"][0]["scale"]), np.array(document["nodes"][0]["translation"])
    np.testing.assert_allclose(np.array(positions["min"]) * scale + translation, (-2.0, -1.0, -0.5))
    np.testing.assert_allclose(np.array(positions["max"]) * scale + translation, (-1.0, 0.0, 0.0))
    assert positions["count"] == 24
    buffer_end = max(view["byteOffset"] + view["byteLength"] for view in document["bufferViews"])
    assert buffer_end == document["buffers"][0]["byteLength"] == len(blob) - 20 - length - 8


def test_an_empty_volume_is_an_empty_scene() -> None:
    blob = volume_glb(volume(SMALL_GRID), space=SMALL_SPACE)
    assert int.from_bytes(blob[8:12], "little") == len(blob)


def test_scene_is_one_page_with_a_button_per_volume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser", reason="the 3-D scene needs viser: pip install 'occlift[view]'")
    semantics = volume(SMALL_GRID)
    semantics[2, 3, 1] = CAR
    path = tmp_path / "deep" / "scene.html"
    rig = forward_rig()
    write_scene_html(
        path,
        {"truth": semantics, "<label>": semantics},
        space=SMALL_SPACE,
        cameras=[rig],
        images=[Image.new("RGB", (160, 90), (1, 2, 3))],
        title=NASTY,
    )
    page = path.read_text(encoding="utf-8")
    assert NASTY not in page
    assert '<button type="button" data-node="/volumes/0">truth</button>' in page
    assert '<button type="button" data-node="/volumes/1">&lt;label&gt;</button>' in page
    assert "__VISER_EMBED_DATA__" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.https?:", page)
    assert path.stat().st_size < 4e6
    assert capfd.readouterr().out == "", "a library does not print"


def test_missing_viser_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ConfigError, match=r"pip install 'occlift\[view\]'"):
        write_scene_html(tmp_path / "scene.html", {"truth": volume(SMALL_GRID)}, space=SMALL_SPACE)


# --- the real frame -------------------------------------------------------------------------------------------------


def test_show_draws_the_real_frame(real_frame: Path, tmp_path: Path) -> None:
    from occlift.viz.show import show

    token = json.loads((real_frame / "v1.0-mini/sample.json").read_text())[0]["token"]
    run = show(open_dataset(real_frame), token, tmp_path / "out")
    assert [path.name for path in run.paths] == [
        "lidar_on_images.png",
        "occupancy_on_images.png",
        "birds_eye.png",
        "occupancy.png",
    ]
    for path in run.paths:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 5
    assert run.num_lidar_points == 34688
    assert abs(run.ground_height_m) < 0.1, "nuScenes' ego frame lies on the road"
    assert run.num_boxes == run.num_boxes_stated == 68
    assert run.num_boxes_agreeing >= 66


def test_show_draws_labels(real_frame: Path, tmp_path: Path) -> None:
    from occlift.labels.files import OccupancyLabel, label_path, write_label
    from occlift.viz.show import show

    token = json.loads((real_frame / "v1.0-mini/sample.json").read_text())[0]["token"]
    semantics = volume()
    semantics[:, :, :3] = DRIVEABLE_SURFACE
    seen = np.ones(semantics.shape, dtype=bool)
    path = label_path(tmp_path / "labels", "scene-0061", token)
    write_label(path, OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen))
    run = show(open_dataset(real_frame), token, tmp_path / "out", labels=tmp_path / "labels")
    assert run.occupancy_from == "labels of labels"
    with Image.open(tmp_path / "out/occupancy_on_images.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        # Below the two rows of images stands the legend.
        front = pixels[: (picture.height - legend(picture.width, size_px=28, unknown=False).height) // 2]
    # The road is drawn in its class colour below the horizon and nothing above it.
    magenta = (front[..., 0] - front[..., 1] > 60) & (front[..., 2] - front[..., 1] > 60)
    assert magenta[-60:-20].mean() > 0.9
    assert magenta[40:100].mean() < 0.02


def test_a_real_frame_becomes_a_report_frame_and_a_scene(real_frame: Path, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="the 3-D scene needs viser: pip install 'occlift[view]'")
    from occlift.datasets.nuscenes.dataset import NuScenes
    from occlift.viz.frame_report import environment_facts, report_frame, write_frame_scene

    data = NuScenes.open(real_frame)
    token = data.key_frame_tokens(data.scenes()[0])[0]
    semantics = volume()
    semantics[:, :, 2] = TERRAIN
    frame = report_frame(data, token, {"truth": semantics})
    assert [name for name, _ in frame.images][:3] == ["front left", "front", "front right"]
    assert frame.images[0][1].size == (480, 270)
    assert [pictures.name for pictures in frame.volumes] == ["truth"]
    write_frame_scene(tmp_path / "scene.html", data, token, {"truth": semantics})
    assert (tmp_path / "scene.html").stat().st_size < 4e6
    facts = dict(environment_facts())
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert all(facts.values())


def test_real_lidar_lands_on_the_people_it_hits(real_frame: Path) -> None:
    """Lidar points inside the pedestrians' boxes project into the images near the boxes' own projected centres."""
    from occlift.datasets.nuscenes.dataset import NuScenes
    from occlift.scenes.rigs import rig_of
    from occlift.viz.show import box_in_ego, lidar_in_ego

    data = NuScenes.open(real_frame)
    token = data.key_frame_tokens(data.scenes()[0])[0]
    key_frame = data.key_frame(token)
    points_ego, rig = lidar_in_ego(key_frame), rig_of(key_frame)
    seen = 0
    for annotation in data.boxes(token):
        box = box_in_ego(annotation, key_frame)
        inside = points_ego[box.holds(points_ego)]
        if len(inside) < 5:
            continue
        pixels, depth_m, visible = rig.project(torch.as_tensor(np.vstack((box.ego_from_box[:3, 3], inside))))
        for camera in np.flatnonzero(visible.all(dim=1).numpy()):
            radius_px = float(rig.intrinsics_px[camera, 0, 0]) * max(box.size_lwh_m) / float(depth_m[camera].min())
            assert (pixels[camera, 1:] - pixels[camera, 0]).norm(dim=1).max() < radius_px
            seen += 1
    assert seen >= 10
