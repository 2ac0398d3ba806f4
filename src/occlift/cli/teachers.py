"""The command that lists the teachers, and the options of one."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg


def teachers(
    name: Annotated[
        Positional[str | None],
        arg(help="teacher whose options to list", help_behavior_hint="(default: list all teachers)", metavar="NAME"),
    ] = None,
) -> None:
    """List the teachers, what each needs, and whether it is there; or every option of one."""
    from occlift.cli.tables import print_teacher_options, print_teachers
    from occlift.teachers.registry import teacher_options, teacher_table

    if name is None:
        print_teachers(teacher_table())
    else:
        print_teacher_options(teacher_options(name))
