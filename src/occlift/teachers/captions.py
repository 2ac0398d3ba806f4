"""From classes to what a detector is asked.

Grounding DINO (Liu et al., arXiv 2303.05499) reads a caption: phrases that each end in a full stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from occlift.errors import ConfigError
from occlift.label_space import FREE, NUM_CLASSES

Grouping = Literal["phrase", "class", "all"]
"""What one caption asks for: one phrase, all phrases of a class, or everything at once."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a detector is asked at once.

    Attributes:
        phrases: none of them holds a full stop or a question mark.
        class_ids: of each phrase.
    """

    phrases: tuple[str, ...]
    class_ids: tuple[int, ...]

    @property
    def text(self) -> str:
        """As Grounding DINO was trained to read it: lower case, a full stop after every phrase."""
        return "".join(f"{phrase}. " for phrase in self.phrases).strip()


def check_prompts(prompts: Mapping[int, Sequence[str]]) -> None:
    """ConfigError unless there is a phrase, every class is one, and every phrase can stand in a caption."""
    if not any(prompts.values()):
        raise ConfigError("there is no prompt; a teacher needs at least one phrase of one class")
    for class_id, phrases in prompts.items():
        if class_id not in range(NUM_CLASSES):
            raise ConfigError(f"prompts {tuple(phrases)!r} are for class {class_id}; expected 0..{NUM_CLASSES - 1}")
        for phrase in phrases:
            if not phrase.strip() or "." in phrase or "?" in phrase:
                raise ConfigError(
                    f"{phrase!r} cannot be a prompt of class {class_id}; expected words without full stop or question "
                    "mark, which part one phrase from the next"
                )


def captions(prompts: Mapping[int, Sequence[str]], grouping: Grouping, *, sky_answer: bool) -> tuple[Caption, ...]:
    """All that a detector is asked, in the order of the prompts.

    Args:
        prompts: per class id.
        sky_answer: captions that do not ask for the sky get it as a last phrase ("car. sky."): a box that has to fit
            something can then fit that. Such boxes are sky.
    """
    asked = [(phrase.strip().lower(), class_id) for class_id, phrases in prompts.items() for phrase in phrases]
    groups: list[list[tuple[str, int]]] = []
    for position, (phrase, class_id) in enumerate(asked):
        goes_on = grouping == "all" or (grouping == "class" and position and asked[position - 1][1] == class_id)
        if groups and goes_on:
            groups[-1].append((phrase, class_id))
        else:
            groups.append([(phrase, class_id)])
    if sky_answer:
        for group in groups:
            if all(class_id != FREE for _, class_id in group):
                group.append(("sky", FREE))
    return tuple(
        Caption(phrases=tuple(phrase for phrase, _ in group), class_ids=tuple(class_id for _, class_id in group))
        for group in groups
    )
