"""The demo, as a command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg


def demo(
    out: Annotated[Path, arg(help="folder of the run; what it holds already is reused")] = Path("runs/demo"),
    size: Annotated[
        Literal["standard", "smoke"], arg(help="smoke: every stage in its smallest form, in about a minute")
    ] = "standard",
) -> None:
    """Everything once: a town, labels, training, baselines, scores, a report. No GPU, no downloads."""
    from occlift.cli.tables import print_demo
    from occlift.demo import DemoConfig, run_demo

    config = DemoConfig.standard() if size == "standard" else DemoConfig.smoke()
    print_demo(run_demo(out, config, command=shlex.join(["occlift", *sys.argv[1:]])))
