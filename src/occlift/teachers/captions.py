"""From classes to what a detector is asked.

Grounding DINO (Liu et al., arXiv 2303.05499) reads a caption: phrases that each end in a full stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from occlift.errors import ConfigError
from occlift.label_space import Taxonomy

Grouping = Literal["phrase", "class", "all"]
"""What one caption asks for: one phrase, all phrases of a class, or everything at once."""


NO_CLASS: Final = -1
"""The class of phrases whose boxes are discarded."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a detector is asked at once.

    Attributes:
        phrases: phrases, without full stop and question mark.
        class_ids: class of each phrase; `NO_CLASS` where it is only another answer.
    """

    phrases: tuple[str, ...]
    class_ids: tuple[int, ...]

    @property
    def text(self) -> str:
        """As Grounding DINO was trained to read it: lower case, a full stop after every phrase."""
        return "".join(f"{phrase}. " for phrase in self.phrases).strip()


def class_prompts(taxonomy: Taxonomy) -> dict[int, tuple[str, ...]]:
    """Class id → phrases, in the order in which they are asked; those of the sky, which is free space, come last.

    >>> class_prompts(Taxonomy(names=("road", "car"), prompts={"car": ("car", "van")}))
    {1: ('car', 'van'), 2: ('sky',)}
    """
    prompts = {taxonomy.id_of(name): tuple(phrases) for name, phrases in taxonomy.prompts.items()}
    return {**prompts, taxonomy.free: tuple(taxonomy.sky_prompts)}


def prompt_settings(taxonomy: Taxonomy) -> dict[str, object]:
    """Prompts as JSON values: per class name its phrases, in order."""
    return {taxonomy.name_of(class_id): list(phrases) for class_id, phrases in class_prompts(taxonomy).items()}


def check_prompts(taxonomy: Taxonomy, teacher: str) -> None:
    """ConfigError unless some class has a phrase, and every phrase can stand in a caption."""
    if not any(taxonomy.prompts.values()):
        raise ConfigError(
            f"{teacher}: no class has a prompt, so nothing can be found; give the taxonomy prompts, such as "
            f"prompts={{{taxonomy.names[0]!r}: ({taxonomy.names[0].replace('_', ' ')!r},)}}"
        )
    for class_id, phrases in class_prompts(taxonomy).items():
        for phrase in phrases:
            if not phrase.strip() or "." in phrase or "?" in phrase:
                raise ConfigError(
                    f"{teacher}: {phrase!r} cannot be a prompt of class {taxonomy.name_of(class_id)}; expected words "
                    "without full stop or question mark, which part one phrase from the next"
                )


def captions(taxonomy: Taxonomy, grouping: Grouping, *, sky_answer: bool) -> tuple[Caption, ...]:
    """All that a detector is asked, in the order of the prompts.

    Args:
        taxonomy: classes and their prompts.
        sky_answer: captions that do not ask for the sky get it as a last phrase ("car. sky."): a box that has to fit
            something can then fit that, and is discarded (`NO_CLASS`).
    """
    asked = [
        (phrase.strip().lower(), class_id)
        for class_id, phrases in class_prompts(taxonomy).items()
        for phrase in phrases
    ]
    sky = (taxonomy.sky_prompts or ("sky",))[0].strip().lower()
    groups: list[list[tuple[str, int]]] = []
    for position, (phrase, class_id) in enumerate(asked):
        goes_on = grouping == "all" or (grouping == "class" and position and asked[position - 1][1] == class_id)
        if groups and goes_on:
            groups[-1].append((phrase, class_id))
        else:
            groups.append([(phrase, class_id)])
    if sky_answer:
        for group in groups:
            if all(class_id != taxonomy.free for _, class_id in group):
                group.append((sky, NO_CLASS))
    return tuple(
        Caption(phrases=tuple(phrase for phrase, _ in group), class_ids=tuple(class_id for _, class_id in group))
        for group in groups
    )
