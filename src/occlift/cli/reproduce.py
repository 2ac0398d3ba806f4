"""The command that makes a paper's tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from occlift.cli.files import write_text
from occlift.errors import ConfigError, OccliftError

if TYPE_CHECKING:
    from occlift.recipes.reproduce.conduct import RunStatus
    from occlift.recipes.reproduce.render import Section

Letter = Literal["a", "b", "c", "d", "e"]
Recipe = Literal["easyocc", "occfeat"]

_TIME_OVER = 75
"""Exit status of a call that has to be repeated: EX_TEMPFAIL of sysexits.h."""


def reproduce(
    recipe: Annotated[Positional[Recipe], arg(help="whose tables")],
    size: Annotated[
        Literal["small", "full", "smoke"],
        arg(help="small: two cores, two hours; full: a GPU; smoke: shows that everything runs"),
    ] = "small",
    only: Annotated[
        tuple[Letter, ...],
        arg(
            help="by default all tables. easyocc: a approaches, b frames fused, c losses, d 2-D or 3-D, e unknown "
            "voxels; occfeat: a SimpleBEV, b BEVFormer, c corrupted images, d learning rates, e longer "
            "training"
        ),
    ] = (),
    out: Annotated[Path | None, arg(help="folder of the runs; by default runs/reproduce/RECIPE-SIZE")] = None,
    root: Annotated[Path | None, arg(help="a nuScenes-format data set; by default a town is built")] = None,
    labels: Annotated[
        str | None, arg(help="labels of ROOT, {frames} for the number of key frames fused; by default the oracle's")
    ] = None,
    truth: Annotated[Path | None, arg(help="what to score against; by default ROOT/gts")] = None,
    steps: Annotated[int | None, arg(help="of every training, instead of the size's own")] = None,
    minutes: Annotated[
        float | None, arg(help="end after about so many, with exit status 75; call again to go on")
    ] = None,
    jobs: Annotated[
        int, arg(help="runs at a time, which share the cores: more is done in an hour; costs mean less")
    ] = 1,
    write: Annotated[
        Path | None, arg(help="put the tables into this Markdown file, between `<!-- reproduce ... -->` markers")
    ] = None,
    list_runs: Annotated[bool, arg(name="list", help="show the runs and how far they are, and do nothing")] = False,
) -> None:
    """Make the paper's tables, run by run. What is finished is kept; run it again, and it goes on."""
    from occlift.recipes.reproduce.conduct import conduct, status
    from occlift.recipes.reproduce.document import write_between_markers
    from occlift.recipes.reproduce.easyocc import easyocc_plan
    from occlift.recipes.reproduce.occfeat import occfeat_plan
    from occlift.recipes.reproduce.plan import Place
    from occlift.recipes.reproduce.render import reading, sections

    place = Place(
        out=out or Path("runs") / "reproduce" / f"{recipe}-{size}", root=root, truth=truth, label_folders=labels
    )
    plan = easyocc_plan(size, place, steps=steps) if recipe == "easyocc" else occfeat_plan(size, place, steps=steps)
    letters = [table.letter for table in plan.tables]
    if unknown := [letter for letter in only if letter not in letters]:
        raise ConfigError(f"--only {' '.join(unknown)}: the tables of {recipe} are {', '.join(letters)}")
    if list_runs:
        _print_status(status(plan, place, only))
        return
    done = conduct(
        plan, place, only, minutes=minutes, jobs=jobs, progress=True, report=lambda line: print(line, flush=True)
    )
    options = {
        "--root": root and "ROOT",
        "--labels": labels and "LABELS",
        "--truth": truth and "TRUTH",
        "--steps": steps,
        "--jobs": None if jobs == 1 else jobs,
    }
    given = "".join(f" {name} {value}" for name, value in options.items() if value is not None)
    made = sections(
        plan,
        done.finished,
        only,
        {
            table.letter: f"occlift reproduce {recipe} --size {size} --only {table.letter}{given}"
            for table in plan.tables
        },
    )
    for section in made:
        _print_section(section)
    how = reading(plan)
    print(f"\n{how}")
    write_text(place.out / "tables.md", "\n".join([*(section.markdown() for section in made), how, ""]))
    if write:
        write_between_markers(write, f"reproduce {recipe} {size} reading", how)
        for section in made:
            write_between_markers(write, f"reproduce {recipe} {size} {section.letter}", section.markdown())
    print(f"{len(done.finished)} runs finished; tables: {place.out / 'tables.md'}")
    if done.failed:
        names = ", ".join(done.failed)
        raise OccliftError(f"{len(done.failed)} runs failed ({names}); the same command tries them again")
    if done.remaining:
        print(f"time is over, {len(done.remaining)} runs are left: run the same command again", file=sys.stderr)
        sys.exit(_TIME_OVER)


def _print_status(found: tuple[RunStatus, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("run", "state", "steps", "minutes left"):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for entry in found:
        steps = "" if entry.steps is None else f"{entry.steps[0]} of {entry.steps[1]}"
        table.add_row(entry.run.name, entry.state, steps, f"{entry.minutes_left:.1f}")
    console = Console(highlight=False)
    console.print(table)
    total = sum(entry.minutes_left for entry in found)
    console.print(f"about {total:.0f} minutes left, on the machine that the size is meant for")


def _print_section(section: Section) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"\n[bold]({section.letter}) {section.title}.[/]", soft_wrap=True)
    console.print(section.made_by, soft_wrap=True, markup=False)
    for cells in (section.scores, section.claims):
        if cells.rows:
            table = Table()
            for number, column in enumerate(cells.columns):
                table.add_column(column.replace(", ", "\n"), justify="right" if number else "left", overflow="fold")
            for number, row in enumerate(cells.rows):
                table.add_row(*row, style="italic" if number in cells.emphasised else None)
            console.print(table)
    for note in section.notes:
        console.print(note, soft_wrap=True, markup=False)
