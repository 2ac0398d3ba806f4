"""README's commands are run, in order, as a reader would type them: only smaller."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from occlift import LabelConfig, cli, generate_labels, open_dataset
from occlift.cli import load_command
from occlift.cli.commands import COMMANDS
from occlift.datasets.frames.writer import write_frames
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.town.config import TownConfig
from occlift.town.write import write_town

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TUTORIAL = (REPOSITORY / "docs/tutorial.md").read_text(encoding="utf-8")

# Later options win: what makes a command of README small enough for a test.
SMALLER = {
    "town": ["--scenes", "2", "--frames", "2"],
    "label": ["--frames", "1"],
    "train easyocc-demo": ["--steps", "2"],
    "train easyocc": ["--steps", "1", "--devices", "1", "--workers", "0"],
}
# The full-size network learns on a GPU; here its command is only parsed, to the point of its first check.
PARSED_ONLY = {"train easyocc"}


def _commands(heading: str, text: str = README) -> list[list[str]]:
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    text = "\n".join(re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL))
    inline = re.findall(r"`(occlift [^`]*\$[^`]*)`", section)
    return [shlex.split(line, comments=True) for line in [*text.splitlines(), *inline] if line.startswith("occlift ")]


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "occlift", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def _smaller(arguments: list[str]) -> list[str]:
    for name, options in SMALLER.items():
        if " ".join(arguments).startswith(name + " "):
            return [*arguments, *options]
    return arguments


def test_the_step_by_step_commands_run_one_after_the_other(tmp_path: Path) -> None:
    commands = _commands("From images to a score", TUTORIAL)
    assert [c[1] for c in commands] == ["town", "label", "audit", "train", "predict", "evaluate", "compare"]
    for command in commands:
        done = _run(_smaller(command[1:]), tmp_path)
        assert done.returncode == 0, done.stderr
        assert "lightning" not in done.stderr, "nobody wants to read what the loop thinks of our choices"
    assert "RayIoU" in done.stdout
    assert (tmp_path / "runs/scores.json").exists()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data set in the place of nuScenes, and a network that was trained a little."""
    root = tmp_path_factory.mktemp("fleet")
    config = TownConfig(scenes=2, frames=1, seed=4, image_height=96, image_width=176, maps=True)
    write_town(root / "town", config)
    data = NuScenes.open(root / "town")
    label = _run(["label", "town", "--out", "labels", "--frames", "1"], root)
    assert label.returncode == 0, label.stderr
    train = _run(
        ["train", "easyocc-demo", "town", "--labels", "labels", "--out", "runs/nuscenes", "--steps", "1"], root
    )
    assert train.returncode == 0, train.stderr
    return {
        "folder": str(root), "NUSCENES": "town", "LABELS": "labels", "OCC3D": "town",
        "CLASSES": "oracle:foundation", "DEPTH": "oracle:foundation",
        "TOKEN": data.key_frame_tokens(data.scenes()[1])[0],
    }  # fmt: skip


def test_the_commands_for_nuscenes_run_on_a_data_set_of_its_format(fleet: dict[str, str]) -> None:
    ran = []
    for command in _commands("On nuScenes"):
        arguments = [re.sub(r"\$(\w+)", lambda match: fleet[match[1]], word) for word in command[1:]]
        name = " ".join(arguments[:2]) if arguments[0] == "train" else arguments[0]
        if name in PARSED_ONLY:
            # The folder holds the run of the fixture: the command must get as far as refusing to mix the two.
            done = _run(_smaller(arguments), Path(fleet["folder"]))
            assert done.returncode == 1
            assert "another configuration" in done.stderr, done.stderr
        elif "random:easyocc" in arguments:
            arguments[arguments.index("random:easyocc")] = "random:easyocc-demo"
            assert _run(arguments, Path(fleet["folder"])).returncode == 0
        else:
            done = _run(_smaller(arguments), Path(fleet["folder"]))
            assert done.returncode == 0, done.stderr
        ran.append(name)
    assert ran == ["teachers", "check", "show", "label", "train easyocc", "predict", "evaluate", "export", "predict"]


def test_the_commands_for_own_data_run_on_a_frames_folder(small_town: Path, tmp_path: Path) -> None:
    commands = _commands("A complete example", (REPOSITORY / "docs/own_data.md").read_text(encoding="utf-8"))
    assert [command[1] for command in commands] == ["check", "label", "show", "view", "train", "predict"]
    readme = [command for command in _commands("Your own data") if command[1] != "view"]
    assert all(command in commands for command in readme)
    assert len(readme) == 4
    rig = tmp_path / "rig"
    write_frames(open_dataset(small_town), rig)
    data = open_dataset(f"frames:{rig}")
    oracle = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=1)
    generate_labels(data, tmp_path / "first", oracle, keep_maps=tmp_path / "maps")
    (tmp_path / "maps" / "semantics").rename(tmp_path / "maps" / "classes")
    token = data.key_frame_tokens(data.scenes()[0])[1]
    for command in commands:
        arguments = [token if word == "monday_500000" else word for word in command[1:]]
        # `view` serves until it is stopped; its page says the same.
        more = {"view": ["--html", "view.html"], "train": ["--steps", "1"]}.get(arguments[0], [])
        done = _run([*arguments, *more], tmp_path)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert len(list((tmp_path / "runs/predictions").glob("*.npz"))) == 8
    assert (tmp_path / "runs/check/check.png").exists()
    assert (tmp_path / "view.html").stat().st_size > 100_000


def test_the_rendering_baseline_trains_and_what_it_shows_is_scored(fleet: dict[str, str]) -> None:
    commands = [c[1:] for c in _commands("The paper's tables", TUTORIAL)]
    assert [c[0] for c in commands] == ["train-rendering", "train-rendering", "evaluate-rendering"]
    for command in commands:
        arguments = [word.replace("data/", "") for word in command]
        steps = ["--steps", "1"] if arguments[0] == "train-rendering" else []
        done = _run([*arguments, *steps], Path(fleet["folder"]))
        assert done.returncode == 0, done.stderr
    assert "80 m above the horizon" in done.stdout
    assert "Classes of rays" in done.stdout


def test_a_network_is_pretrained_fine_tuned_and_scored(fleet: dict[str, str]) -> None:
    commands = [c[1:] for c in _commands("Pretraining a bird's-eye-view network", TUTORIAL)]
    assert [c[0] for c in commands] == ["pretrain", "finetune", "evaluate-bev"]
    for command in commands:
        steps = [] if command[0] == "evaluate-bev" else ["--steps", "1"]
        done = _run([*(word.replace("data/", "") for word in command), *steps], Path(fleet["folder"]))
        assert done.returncode == 0, done.stderr
    assert "fog 3" in done.stdout
    assert "vehicle filtered" in done.stdout


def test_two_processes_train_together_and_report_once(fleet: dict[str, str]) -> None:
    arguments = [
        "train",
        "easyocc-demo",
        "town",
        "--labels",
        "labels",
        "--out",
        "runs/two",
        "--steps",
        "2",
        "--devices",
        "2",
    ]
    done = _run(arguments, Path(fleet["folder"]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs/two/last.ckpt: step 2") == 1, done.stdout
    losses = (Path(fleet["folder"]) / "runs/two/losses.csv").read_text(encoding="utf-8")
    assert len(re.findall(r"^\d+,loss,", losses, flags=re.MULTILINE)) == 2


def test_links_of_readme_work_where_only_its_text_is_shown_and_lead_to_files_that_are_here() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    here = [link for link in links if "occlift/occlift/" in link]
    assert len(here) > 12
    for link in links:
        assert link.startswith("https://"), link
    for link in here:
        path = re.split(r"/(?:blob|raw)/main/", link)[1].partition("#")[0]
        assert (REPOSITORY / path).exists(), link


def test_every_make_target_of_readme_exists_and_runs_in_ci() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE))
    assert targets == {"demo", "test"}
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    ci = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
        assert f"make {target}" in ci


def test_help_lists_every_command_and_imports_next_to_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['occlift', '--help']\n"
        "from occlift.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tyro', 'rich', 'torch', 'numpy', 'numba', 'lightning', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  ([a-z-]+) +[A-Z]", done.stdout, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_what_the_help_says(name: str) -> None:
    function = load_command(name)
    assert function.__name__ == name.replace("-", "_")
    assert (inspect.getdoc(function) or "").splitlines()[0] == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, command, *words = shlex.split(COMMANDS[name].example)
    assert (program, command) == ("occlift", name)
    function = load_command(name)
    called = []
    monkeypatch.setattr(
        cli, "load_command", lambda name: functools.wraps(function)(lambda *_, **__: called.append(name))
    )
    cli.call(name, words)
    assert called == [name]
    with pytest.raises(SystemExit):
        cli.call(name, ["--help"])
    shown = capsys.readouterr().out
    assert "Example:" in shown
    assert "{None}" not in shown
    words = " ".join(shown.replace("│", " ").split())
    assert not re.search(r"\(default: (None)?\)", words), "say what happens without it"
    assert "[STR [STR ...]]" not in shown, "a name for each value of an option"


def test_the_version_is_said(tmp_path: Path) -> None:
    done = _run(["--version"], tmp_path)
    assert re.fullmatch(r"occlift \d+\.\d+\S*\n", done.stdout)


def test_a_command_that_is_misspelt_is_answered_with_one_that_exists(tmp_path: Path) -> None:
    done = _run(["evaluat-bev"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("occlift: there is no command 'evaluat-bev'; did you mean evaluate-bev")


@pytest.mark.parametrize("arguments", ["--help", "label --help"])
def test_a_reader_may_stop_reading(arguments: str, tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m occlift {arguments} | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_mistakes_end_with_one_line_and_no_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (
        ["label", "nowhere", "--out", "labels"],
        ["town", "t", "--scenes", "0"],
        ["evaluate", "--predictions", "nowhere", "--truth", "nowhere"],
        ["predict", "no.ckpt", "nowhere", "--out", "p"],
        ["show", "nowhere", "token"],
        ["export", "no.ckpt", "--onnx", "x.onnx"],
        ["evaluate", "--predictions", ".", "--truth", ".", "--part", "1"],
        ["evaluate-bev", "no.ckpt", "nowhere", "--corrupt", "hail"],
        ["evaluate-bev", "no.ckpt", "nowhere", "--corrupt", "fog:much"],
        ["evaluate", "--predictions", ".", "--truth", ".", "--rays", "--root", "nowhere", "--device", "gpu"],
        ["town", "file/town"],
        ["finetune", "bev-demo", "nowhere", "--label-share", "1%"],
    ):
        done = _run(arguments, tmp_path)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("occlift: "), done.stderr
        assert "Traceback" not in done.stderr


def test_the_picture_of_readme_exists_and_is_small() -> None:
    picture = re.search(r"!\[[^]]*\]\(([^)]*)\)", README)
    assert picture is not None
    assert 10_000 < (REPOSITORY / picture[1].split("/raw/main/")[1]).stat().st_size < 1_000_000
