"""Weights of one network loaded into another by their names, with an account of what was loaded and what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from occlift.errors import ConfigError
from occlift.training.checkpoint import checkpoint_parts, network_weights


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened to every weight: parameters and statistics, not the counters of batch norms, which fit anywhere.

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

    With averaged weights where the run kept any; counters of batch norms go with the weights beside them.

    Args:
        checkpoint: of a task whose network is called `model`, such as `OccFeatTask`.

    Raises:
        ConfigError: no weight has a name and a shape that the model knows.
        DataError: the checkpoint is missing or damaged.
    """
    found = network_weights(checkpoint_parts(checkpoint))
    wanted = model.state_dict()
    fitting = [name for name in wanted if name in found and found[name].shape == wanted[name].shape]
    needed, given = _weights(wanted), _weights(found)
    report = LoadReport(
        loaded=tuple(name for name in needed if name in fitting),
        reshaped=tuple(name for name in needed if name in found and name not in fitting),
        missing=tuple(name for name in needed if name not in found),
        unused=tuple(name for name in given if name not in wanted),
    )
    if not report.loaded:
        raise ConfigError(
            f"{checkpoint}: none of its {len(given)} weights has a name and a shape of this network (it has "
            f"{', '.join(_parts(given)) or 'none'}, the network {', '.join(_parts(needed))}): fine-tune "
            "the architecture and size that were pretrained"
        )
    modules = {_module(name) for name in report.loaded}
    model.load_state_dict({name: found[name] for name in fitting if _module(name) in modules}, strict=False)
    return report


def _weights(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of all but counters."""
    return tuple(name for name, tensor in state.items() if tensor.is_floating_point())


def _module(name: str) -> str:
    """What holds a weight."""
    return name.rpartition(".")[0]


def _parts(names: tuple[str, ...]) -> list[str]:
    """The first words of names, each once."""
    return list(dict.fromkeys(name.split(".")[0] for name in names))
