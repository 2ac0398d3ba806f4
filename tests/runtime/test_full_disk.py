"""A full disk, whoever writes and whatever library makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from occlift.runtime.files import DiskFull, replacing, write_text

_WRITERS = """
import sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from occlift.runtime.files import replacing, write_text
from occlift.runtime.npz import write_npz
from occlift.training.checkpoint_file import WholeCheckpoints

noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
def save(path, write):
    with replacing(path) as file:
        write(file)
writers = {
    "text.json": lambda path: write_text(path, "x" * 2_000_000),
    "arrays.npz": lambda path: write_npz(path, {"a": noise}, level=1),
    "sweep.npy": lambda path: save(path, lambda file: np.save(file, noise)),
    "image.jpg": lambda path: save(path, lambda file: Image.fromarray(noise).save(file, "JPEG", quality=99)),
    "image.png": lambda path: save(path, lambda file: Image.fromarray(noise).save(file, "PNG")),
    "last.ckpt": lambda path: WholeCheckpoints().save_checkpoint({"weights": torch.zeros(700_000)}, path),
}
folder = Path(sys.argv[1])
for name, write in writers.items():
    try:
        write(folder / name)
        print(name, "was written")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
print(sorted(path.name for path in folder.iterdir()))
"""


def test_a_full_disk_is_named_by_every_writer(small_disk: list[str]) -> None:
    """torch, numpy and Pillow make errors of their own of what the system says."""
    run = subprocess.run(
        [*small_disk, sys.executable, "-c", _WRITERS, "/mnt"], capture_output=True, text=True, timeout=120, check=True
    )
    names = ("text.json", "arrays.npz", "sweep.npy", "image.jpg", "image.png", "last.ckpt")
    assert run.stdout.splitlines() == [
        *(
            f"DiskFull: /mnt/{name}: the disk is full (No space left on device); what is finished is kept. Make room, "
            "and run the same command again"
            for name in names
        ),
        "[]",
    ]


def test_a_command_says_a_full_disk_in_one_sentence(small_disk: list[str]) -> None:
    command = [sys.executable, "-m", "occlift", "town", "/mnt", "--scenes", "1", "--frames", "2"]
    run = subprocess.run(
        [*small_disk, *command, "--image-height", "48", "--image-width", "88"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    *_, last = run.stderr.splitlines()
    assert last.startswith("occlift: /mnt: the disk is full (No space left on device); what is finished is kept.")
    assert "Traceback" not in run.stderr


def test_a_file_that_may_be_no_larger_is_named(tmp_path: Path) -> None:
    """As below `ulimit -f`, or on a file system for small files."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000));" + _WRITERS
    run = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    *errors, left = run.stdout.splitlines()
    names = ("text.json", "arrays.npz", "sweep.npy", "image.jpg", "image.png", "last.ckpt")
    assert errors == [f"OSError: [Errno 27] File too large: '{tmp_path / name}'" for name in names]
    assert left == "[]"


def test_a_full_disk_is_an_error_of_the_system_too(tmp_path: Path) -> None:
    """Whoever can do without a file, such as a cache, catches OSError."""
    with pytest.raises(OSError, match="the disk is full") as caught, replacing(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value, DiskFull)


def test_other_errors_of_a_writer_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^mine$"), replacing(tmp_path / "a"):
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []


def test_text_may_name_files_that_are_no_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "\udcfc")
    assert (tmp_path / "a").read_bytes() == b"\\udcfc"
