"""The command line: parse, call, print. A command's module is imported when the command is called."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from occlift.cli.commands import COMMANDS, GROUPS
from occlift.errors import OccliftError
from occlift.runtime.files import DISK_FULL, disk_full
from occlift.runtime.interrupts import stopping_soon
from occlift.runtime.streams import patient_streams


def load_command(name: str) -> Callable[..., None]:
    """The function of a command; imports its module."""
    module, _, function = COMMANDS[name].function.partition(":")
    return getattr(importlib.import_module(module), function)


def call(name: str, words: Sequence[str]) -> Any:
    """Calls a command with the words of its command line; with `--help` prints what it does and exits."""
    import tyro

    function = load_command(name)
    # Nobody writes None, whose meaning stands in the help, or --no- before what is off.
    plain = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
    about = f"{inspect.getdoc(function)}\n\nExample:\n    {COMMANDS[name].example}"
    return tyro.cli(function, prog=f"occlift {name}", args=words, description=about, config=plain)


def main() -> None:
    """The entry point: errors that a user can mend are printed in one line, all others with their stack trace."""
    with stopping_soon() as stop:
        streams = None
        try:
            with patient_streams() as streams:
                _run(sys.argv[1:])
        # SystemExit, too: some libraries make one of Ctrl-C.
        except BaseException as error:
            if stop.sentence:
                stop.end(str(error) if isinstance(error, KeyboardInterrupt) else "")
            if isinstance(error, KeyboardInterrupt):
                _exit(str(error) or "interrupted; run the same command again", stop.status)
            if not isinstance(error, SystemExit) or error.code:
                text = _sentence(error)
                if not text:
                    raise
                _exit(text, 1)
        if streams and streams.broken:
            # Whoever read our output has had enough (`occlift --help | head -1`).
            sys.exit(141)


def _sentence(error: BaseException) -> str:
    """What the user is told; empty for what is our own mistake."""
    if isinstance(error, OccliftError):
        return str(error)
    if isinstance(error, OSError):
        # What a folder does not allow, or a disk; other errors without a file are ours.
        if error.errno in DISK_FULL:
            return str(disk_full(error))
        if error.filename is not None:
            file = error.filename2 or error.filename
            return f"{file}: {error.strerror}; choose another place, or make this one usable"
    return ""


def _exit(message: str, status: int) -> NoReturn:
    with patient_streams():
        print(f"occlift: {message}", file=sys.stderr)
    sys.exit(status)


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"occlift {importlib.metadata.version('occlift')}")
        return
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=3)
        what = f"did you mean {' or '.join(near)}?" if near else "`occlift --help` lists the commands"
        _exit(f"there is no command {words[0]!r}; {what}", 2)
    # Where users keep modules of their own, such as a data set's; `python -m` does the same.
    sys.path.append(str(Path.cwd()))
    from occlift.cli.options import choices, greedy_options, near_choices, taken_words
    from occlift.runtime.launchers import is_first_process
    from occlift.runtime.progress import shown_progress

    with shown_progress() if is_first_process() else contextlib.nullcontext():
        try:
            call(name, words[1:])
        except SystemExit as error:
            # How tyro ends where the words are wrong; it says neither what is near, nor who took missing ones.
            if error.code == 2:
                command = load_command(name)
                meant = near_choices(words[1:], choices(command))
                for hint in filter(None, (meant, taken_words(words[1:], greedy_options(command)))):
                    print(f"occlift: {hint}", file=sys.stderr)
            raise


def _help() -> str:
    width = max(60, min(shutil.get_terminal_size((120, 1)).columns, 120))
    column = 2 + max(map(len, COMMANDS)) + 2
    lines = ["usage: occlift COMMAND [options]", "", "What images show, lifted to 3-D supervision."]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        for name, command in commands.items():
            first = f"  {name}".ljust(column)
            lines += textwrap.wrap(command.summary, width, initial_indent=first, subsequent_indent=" " * column)
    return "\n".join([*lines, "", "`occlift COMMAND --help` says what each option does, with an example."])
