"""The command that lists the teachers."""

from __future__ import annotations


def teachers() -> None:
    """List the teachers, what each needs, and whether it is there."""
    from occlift.cli.tables import print_teachers
    from occlift.teachers.registry import teacher_table

    print_teachers(teacher_table())
