"""Where the weights of a teacher lie: in a folder of the user's, or in the cache of the Hugging Face Hub.

Nothing is ever downloaded from here. A label run that starts by fetching gigabytes, once per worker, fails late and on
machines without a network; so the user fetches weights once, by the command that the error says, and everything after
that works offline.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from occlift.errors import ConfigError, DataError
from occlift.runtime.extras import missing_extra
from occlift.runtime.folders import expanded

WEIGHT_SUFFIXES: Final = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx"})
"""Files of which at least one must be there."""

CONFIG_NAME: Final = "config.json"


def find_weights(name: str, revision: str | None = None) -> Path:
    """The folder (or, for a single local file, the file) that holds the weights called `name`.

    Args:
        name: a local folder or file, or the name of a model on the Hugging Face Hub ("organisation/model"), whose
            files are then taken from the cache. A local path wins over a name of the Hub.
        revision: a commit, branch or tag of the Hub; None: `main`. Means nothing for a local path.

    Raises:
        ConfigError: the weights are not there, or only a part of them; the text names the model, the folder that was
            looked in, and the command that fetches them.
    """
    found, reason = _look_up(name, revision)
    if found is None:
        raise ConfigError(reason)
    return found


def missing_weights(name: str, revision: str | None = None) -> str | None:
    """None if `find_weights` finds them, else the sentence it would raise."""
    found, reason = _look_up(name, revision)
    return reason if found is None else None


def weights_digest(path: Path) -> str:
    """What identifies the weights that `find_weights` found, wherever they lie.

    Of a snapshot in the Hub's cache: its commit. Of local files: `sha256:` and a digest of their names and bytes, for
    which everything is read once (about a second per gigabyte).

    Raises:
        DataError: a file cannot be read.
    """
    if path.parent.name == "snapshots":
        return path.name
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        relative = file.relative_to(path if path.is_dir() else path.parent)
        # Neither a repository's own files nor a download's bookkeeping says anything about the weights.
        if any(part.startswith(".") for part in relative.parts):
            continue
        digest.update(f"{relative.as_posix()}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    return f"sha256:{digest.hexdigest()}"


def weights_settings(name: str, path: Path) -> dict[str, object]:
    """What a teacher's settings say about its weights, as JSON values: name and digest.

    A local folder is called by its last name, so that labels do not depend on where it is mounted.
    """
    return {"name": path.name if expanded(Path(name)).exists() else name, "digest": weights_digest(path)}


def read_json(path: Path) -> Mapping[str, object]:
    """The object in a JSON file of a model.

    Raises:
        DataError: the file is missing, damaged, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it belongs to the model's weights, fetch them again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error}); fetch the model's weights again") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected a JSON object, got {type(content).__name__}; fetch the model's weights again"
        )
    return content


def model_type(folder: Path) -> str:
    """What kind of network the weights belong to, as `config.json` says.

    Raises:
        DataError: there is no `config.json`, or it says nothing.
    """
    kind = read_json(folder / CONFIG_NAME).get("model_type")
    if not isinstance(kind, str):
        raise DataError(f"{folder / CONFIG_NAME}: has no model_type; this is no model of the transformers library")
    return kind


def class_names(folder: Path) -> tuple[str, ...]:
    """What a network with a fixed list of classes calls them, in the order of their ids, as `config.json` says.

    Raises:
        DataError: there is no `config.json`, or it does not name them.
    """
    path = folder / CONFIG_NAME
    stated = read_json(path).get("id2label")
    expected = '"id2label": {"0": name, "1": name, ...}'
    if not isinstance(stated, dict) or not stated:
        raise DataError(f"{path}: id2label is {stated!r}; expected {expected}: is this a segmenter?")
    if set(stated) != {str(number) for number in range(len(stated))} or not all(map(_is_text, stated.values())):
        raise DataError(f"{path}: id2label has the ids {', '.join(map(str, list(stated)[:12]))}; expected {expected}")
    return tuple(stated[str(number)] for number in range(len(stated)))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _look_up(name: str, revision: str | None) -> tuple[Path | None, str]:
    local = expanded(Path(name))
    if local.is_file():
        return local, ""
    if local.is_dir():
        lacking = _lacking(local)
        return (None, f"{local}: {lacking}; copy the model's files there") if lacking else (local, "")

    if missing := missing_extra("teachers", name, "huggingface_hub"):
        return None, missing
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    cache = Path(constants.HF_HUB_CACHE)
    fetch = f"hf download {shlex.quote(name)}" + (f" --revision {shlex.quote(revision)}" if revision else "")
    advice = (
        f"fetch them with `{fetch}` (older versions: huggingface-cli download), or name a folder that holds them; "
        "HF_HUB_CACHE and HF_HOME say where the cache is"
    )
    wanted = name if revision is None else f"{name} (revision {revision})"
    try:
        folder = Path(snapshot_download(name, revision=revision, cache_dir=cache, local_files_only=True))
    except HFValidationError:
        return None, (
            f"{name}: no such folder, and no name of a model on the Hugging Face Hub either; expected a folder with "
            "weights, or organisation/model"
        )
    except LocalEntryNotFoundError:
        return None, f"{wanted}: its weights are not in the Hugging Face cache {cache}; {advice}"
    lacking = _lacking(folder)
    if lacking:
        return None, f"{wanted}: only a part of it is in the Hugging Face cache {cache} ({lacking}); {advice}"
    return folder, ""


def _lacking(folder: Path) -> str | None:
    """What a folder of weights lacks, or None."""
    # Links of the cache may lead nowhere, where a download was cut off; is_file follows them.
    if not any(file.suffix in WEIGHT_SUFFIXES and file.is_file() for file in folder.rglob("*")):
        return f"no file of weights ({', '.join(sorted(WEIGHT_SUFFIXES))})"
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_json(index).get("weight_map")
        names = sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []
        absent = [shard for shard in names if not (folder / shard).is_file()]
        if absent:
            return f"{index.name} names {len(absent)} files that are not there, the first {absent[0]}"
    return None
