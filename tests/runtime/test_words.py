"""Words of what is printed."""

from __future__ import annotations

from occlift.runtime.words import alike, counted


def test_one_thing_is_no_plural() -> None:
    assert [counted(number, "key frame") for number in (0, 1, 2)] == ["0 key frames", "1 key frame", "2 key frames"]


def test_reasons_are_one_where_only_names_of_files_differ() -> None:
    reasons = {
        "t1": "/data/maps/CAM_FRONT/n015-2018-07-18.npy: a map of (90, 160) for the image n015-2018-07-18__CAM_FRONT",
        "t2": "/data/maps/CAM_BACK/n016-2019-01-01.npy: a map of (90, 160) for the image n016-2019-01-01__CAM_BACK",
        "t3": "/data/maps/CAM_BACK/n017-2019-01-01.npy: a map of (45, 160) for the image n017-2019-01-01__CAM_BACK",
    }
    assert [names for _, names in alike(reasons)] == [["t1", "t2"], ["t3"]]
