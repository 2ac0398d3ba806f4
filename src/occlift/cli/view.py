"""The command that looks at key frames in 3-D."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from occlift.cli.spaces import Space


def view(
    paths: Annotated[
        Positional[tuple[str, ...]],
        arg(
            help="a data set, folders of labels, truth or predictions, single files .npz, in any mix and order; a last "
            "word that is none of these is the token of the key frame to begin with",
            metavar="PATH [PATH ...] [TOKEN]",
            help_behavior_hint="(required)",
        ),
    ],
    token: Annotated[
        str | None,
        arg(
            help="token of the key frame to begin with, and which single files are of",
            help_behavior_hint="(default: the first)",
        ),
    ] = None,
    space: Space = None,
    html: Annotated[
        Path | None,
        arg(
            help="file to write this one key frame to as a page, instead of a server",
            help_behavior_hint="(default: a server)",
        ),
    ] = None,
    port: Annotated[int, arg(help="port of the page; the next free one is taken where it is in use")] = 8080,
) -> None:
    """Look at data sets, labels, predictions and truth in 3-D, in a browser: any mix of paths.

    occlift view DATASET; occlift view DATASET LABELS PREDICTIONS; occlift view labels.npz; occlift view LABELS TOKEN.
    """
    from occlift.errors import ConfigError
    from occlift.label_space import read_space
    from occlift.viz.layers import is_path, open_layers
    from occlift.viz.viewer import Viewer, write_html

    if len(paths) > 1 and token is None and not is_path(paths[-1]):
        *paths, token = paths  # type: ignore[assignment]
    if not paths:
        raise ConfigError("nothing to look at: name a data set, a folder of labels or predictions, or a file .npz")
    layers = open_layers(*paths, token=token, space=None if space is None else read_space(space))
    if html is not None:
        for note in write_html(html, layers):
            print(note)
        print(html)
        return
    with Viewer(layers, port=port) as viewer:
        print(f"{viewer.url}\nFrom another machine: {viewer.tunnel}\nCtrl-C ends it.", flush=True)
        try:
            viewer.wait()
        except KeyboardInterrupt:
            print()
