"""Text that every machine has: the source code of Python's standard library, one token a character."""

import functools
import random
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""The characters: newline and printable ASCII; every other byte becomes the last token."""

VOCAB_SIZE = len(ALPHABET) + 1


class Text(NamedTuple):
    """Tokens of whole files, `uint8`; every tenth file is held out."""

    train: np.ndarray
    held_out: np.ndarray


@functools.cache
def standard_library() -> Text:
    """The modules of the running Python without their tests, in a shuffled order that is always the same."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.relative_to(root).parts)]
    random.Random(0).shuffle(paths)
    held_out = paths[::10]
    return Text(*(np.concatenate([tokenize(path.read_bytes()) for path in part]) for part in ([p for p in paths if p not in set(held_out)], held_out)))


def tokenize(text: bytes) -> np.ndarray:
    """One token, `uint8`, for each byte."""
    table = np.full(256, VOCAB_SIZE - 1, np.uint8)
    table[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(len(ALPHABET), dtype=np.uint8)
    return table[np.frombuffer(text, np.uint8)]


def windows(tokens: np.ndarray, count: int, length: int, seed: int = 0) -> np.ndarray:
    """`count` windows of `length` tokens at random positions, `[count, length]`."""
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length + 1, count)
    return tokens[starts[:, None] + np.arange(length)]
