"""A data set's tokens on disk, written once in order and memory-mapped by every reader.

Row r has the texts r * width to (r + 1) * width - 1: query, positive, hard negatives. The files:

    tokens        uint32  the ids of all texts, one after the other
    offsets       int64   where each text's ids begin; at the end where the last one's end
    instructions  int32   how many of a text's ids are of the instruction
    hashes        uint64  what tells a text from others
    numbers       int64   each row's number in its source
    store.json            the width, the bytes of each file, and the held-out rows as texts
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.rows import Triple, text_hash

if TYPE_CHECKING:
    from trainables.tokenizer import Row

DESCRIPTION = "store.json"
FILES: dict[str, Any] = {
    "tokens": np.uint32,
    "offsets": np.int64,
    "instructions": np.int32,
    "hashes": np.uint64,
    "numbers": np.int64,
}


class Store:
    """The training rows as tokens, and the held-out rows, which share no text with them."""

    def __init__(self, folder: Path) -> None:
        """Map the files of a whole folder into memory; nothing is read yet."""
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self.width: int = described["width"]
        self.held_out = tuple(Triple(q, p, tuple(n)) for q, p, n in described["held_out"])
        self.numbers: NDArray[np.int64] = mapped(folder, "numbers")
        self.hashes: NDArray[np.uint64] = mapped(folder, "hashes").reshape(-1, self.width)
        self._tokens, self._offsets = mapped(folder, "tokens"), mapped(folder, "offsets")
        self._instructions = mapped(folder, "instructions")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.numbers)

    def texts(self, places: NDArray[np.int64]) -> list[Row]:
        """Return the tokenised texts at `places`."""
        starts, ends = self._offsets[places].tolist(), self._offsets[places + 1].tolist()
        counts = self._instructions[places].tolist()
        return [
            (self._tokens[start:end].tolist(), count)
            for start, end, count in zip(starts, ends, counts, strict=True)
        ]


class Writer:
    """Appends rows to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Begin the files."""
        self._end = 0
        self._open = ExitStack()
        self._files = {n: self._open.enter_context((folder / n).open("wb")) for n in FILES}
        self._append("offsets", [0])

    def __enter__(self) -> Writer:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._open.close()

    def write(
        self, numbers: Sequence[int], triples: Sequence[Triple], tokenised: Sequence[Row]
    ) -> None:
        """Append rows with their numbers, texts, and the tokens of all texts in a row's order."""
        lengths = [len(ids) for ids, _ in tokenised]
        self._append("tokens", list(itertools.chain.from_iterable(ids for ids, _ in tokenised)))
        self._append("offsets", self._end + np.cumsum(lengths, dtype=np.int64))
        self._append("instructions", [count for _, count in tokenised])
        self._append("hashes", [text_hash(text) for triple in triples for text in triple.texts])
        self._append("numbers", numbers)
        self._end += sum(lengths)

    def _append(self, name: str, values: Any) -> None:
        np.asarray(values, FILES[name]).tofile(self._files[name])


def describe(folder: Path, width: int, held_out: Sequence[Triple]) -> None:
    """Write down what the files do not say; the store is whole with it."""
    described = {
        "width": width,
        "bytes": {name: (folder / name).stat().st_size for name in FILES},
        "held_out": [(t.query, t.positive, t.negatives) for t in held_out],
    }
    text = json.dumps(described, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Return whether a folder is a store with all its bytes; a lost disk may have cut a file."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in FILES}
    except (OSError, ValueError):
        return False
    return bool(described["bytes"] == sizes)


def mapped(folder: Path, name: str) -> NDArray[Any]:
    """Return a file's numbers without reading them; a plain array, as slicing a memmap is slow."""
    return np.memmap(folder / name, FILES[name], mode="r").view(np.ndarray)
