"""A program that asks for workers outside of `if __name__ == "__main__":`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOWN = """
from pathlib import Path

from occlift.town.config import TownConfig
from occlift.town.write import write_town

write_town(Path("town"), TownConfig(scenes=2, frames=1, image_height=48, image_width=88), workers=2)
"""

PROGRAM = """
from pathlib import Path

from occlift import LabelConfig, generate_labels, open_dataset

print("program", flush=True)
config = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=1)
run = generate_labels(open_dataset({town!r}), Path("labels"), config, workers=2)
print(run.done, flush=True)
"""


def test_a_program_without_a_guard_is_told_so(small_town: Path, tmp_path: Path) -> None:
    program = PROGRAM.format(town=str(small_town))

    def run(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "program.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "program.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    done = run(program)
    assert done.returncode == 1
    assert done.stderr.count("put what your program does") == 1, done.stderr
    assert "`if __name__ == '__main__':`, or use workers=1" in done.stderr
    assert "memory" not in done.stderr
    assert done.stderr.count("Traceback") == 1, "that of the program itself; workers say nothing"
    # What it made is a folder of labels like any other.
    guarded = 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in program.splitlines())
    done = run(guarded)
    assert (done.returncode, done.stdout.split()) == (0, ["program", "8"]), done.stderr


def test_so_is_one_that_builds_a_town(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TOWN, encoding="utf-8")
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.count("put what your program does") == 1, done.stderr
    assert "memory" not in done.stderr
    assert "another run" not in done.stderr
