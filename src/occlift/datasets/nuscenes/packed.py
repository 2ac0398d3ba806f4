"""Many strings in two arrays, so that millions of tokens and file names take no more memory than their letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedStrings:
    """An immutable sequence of strings.

    Attributes:
        letters: the UTF-8 bytes of all strings, one after the other.
        starts: string i is `letters[starts[i] : starts[i + 1]]`.
    """

    letters: UInt8[np.ndarray, "bytes"]
    starts: Int[np.ndarray, "strings_plus_1"]

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        letters = bytearray()
        starts = [0]
        for string in strings:
            letters += string.encode()
            starts.append(len(letters))
        return cls(letters=np.frombuffer(bytes(letters), dtype=np.uint8), starts=np.array(starts, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> str:
        assert 0 <= index < len(self), (index, len(self))
        return self.letters[self.starts[index] : self.starts[index + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        letters, starts = self.letters.tobytes(), self.starts.tolist()
        for start, end in pairwise(starts):
            yield letters[start:end].decode()
