"""Weights of one network loaded into another by their names, with an account of what was loaded and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from occlift.errors import ConfigError
from occlift.tasks.checkpoint import checkpoint_parts, network_weights


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened to every weight.

    Attributes:
        loaded: names that both have, with the same shape.
        reshaped: names that both have with different shapes; not loaded.
        missing: names that only the network has; they keep their first values.
        unused: names that only the checkpoint has.
    """

    loaded: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """One sentence, with the parts of the network in which something was not loaded."""
        total = len(self.loaded) + len(self.reshaped) + len(self.missing)
        text = f"{len(self.loaded)} of {total} weights loaded by name"
        for what, names in (("of another shape", self.reshaped), ("not in the checkpoint", self.missing)):
            if names:
                text += f"; {len(names)} {what} ({', '.join(_parts(names))})"
        return f"{text}; {len(self.unused)} of the checkpoint not used" if self.unused else text


def load_by_name(model: nn.Module, checkpoint: Path) -> LoadReport:
    """Copies every weight of a pretrained network that the model has too, under the same name and of the same shape.

    With averaged weights where the run kept any.

    Args:
        checkpoint: of a task whose network is called `model`, such as `OccFeatTask`.

    Raises:
        ConfigError: no weight has a name and a shape that the model knows.
        DataError: the checkpoint is missing or damaged.
    """
    found = network_weights(checkpoint_parts(checkpoint))
    wanted = model.state_dict()
    shared = [name for name in wanted if name in found]
    loaded = [name for name in shared if found[name].shape == wanted[name].shape]
    report = LoadReport(
        loaded=tuple(loaded),
        reshaped=tuple(name for name in shared if found[name].shape != wanted[name].shape),
        missing=tuple(name for name in wanted if name not in found),
        unused=tuple(name for name in found if name not in wanted),
    )
    if not loaded:
        raise ConfigError(
            f"{checkpoint}: none of its {len(found)} weights has a name and a shape of this network (it has "
            f"{', '.join(_parts(tuple(found))) or 'none'}, the network {', '.join(_parts(tuple(wanted)))}): fine-tune "
            "the architecture and size that were pretrained"
        )
    model.load_state_dict({name: found[name] for name in loaded}, strict=False)
    return report


def _parts(names: tuple[str, ...]) -> list[str]:
    """The first words of names, each once."""
    return list(dict.fromkeys(name.split(".")[0] for name in names))
