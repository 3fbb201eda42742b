"""Text on which small transformers form induction heads: the sources of the running Python, above all its own tests, in tokens of a byte-pair encoding.

A name in a test is often new and comes again soon, so that copying what followed it before (induction) says more than a table of bigrams. The tokenizer is
that of the package `tokenizers`, which is imported here alone.
"""

import functools
import random
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxllc._extras import require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
LEAST_CHARACTERS = 1_000_000
"""Fewer are no text to train on: an installation without its tests."""


class Encoded(NamedTuple):
    """Tokens of whole files, `uint16`; every tenth file is held out.

    Examples:
        >>> from jaxllc.models.python_text import python_text
        >>> text = python_text(256, tests=False, num_files=20)
        >>> text.tokenizer.decode(text.tokenizer.encode("import this").ids)
        'import this'
    """

    train: np.ndarray
    held_out: np.ndarray
    tokenizer: "Tokenizer"
    """From and to text: `tokenizer.encode(text).ids`, `tokenizer.decode(ids)`."""


@functools.cache
def python_text(vocab_size: int = 512, *, tests: bool = True, num_files: int | None = None) -> Encoded:
    """The sources of the running Python, in a shuffled order that is always the same, with a tokenizer trained on those that are not held out.

    Args:
        vocab_size: tokens of the byte-pair encoding; the text may give fewer.
        tests: Python's tests; else the modules themselves, which every installation has.
        num_files: so many of the files, the first in that order; None takes all.

    Raises:
        FileNotFoundError: this Python was installed without its tests.

    Examples:
        >>> from jaxllc.models.python_text import python_text
        >>> text = python_text(256, tests=False, num_files=20)
        >>> text.train.dtype, text.tokenizer.get_vocab_size()
        (dtype('uint16'), 256)
    """
    texts = read_sources(Path(sysconfig.get_paths()["stdlib"]), tests=tests)
    if sum(map(len, texts)) < LEAST_CHARACTERS:
        root = sysconfig.get_paths()["stdlib"]
        raise FileNotFoundError(f"{root} has no sources of tests; install them (such as libpython3-testsuite), or take the modules with tests=False.")
    random.Random(0).shuffle(texts)
    texts = texts[:num_files]
    train = [text for i, text in enumerate(texts) if i % 10]
    tokenizer = train_tokenizer(train, vocab_size)
    return Encoded(encode(tokenizer, train), encode(tokenizer, texts[::10]), tokenizer)


def read_sources(root: Path, *, tests: bool) -> list[str]:
    """The text of all `.py` files below a folder, by path; those in folders of tests, or all others. Installed packages are left out.

    Characters that are not ASCII become `?`, tabs four spaces.

    Examples:
        >>> import pathlib
        >>> from jaxllc.models.python_text import read_sources
        >>> written = pathlib.Path("one.py").write_text("x = 1")
        >>> read_sources(pathlib.Path("."), tests=False)
        ['x = 1']
    """
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.relative_to(root).parts]
    chosen = [path for path in paths if tests != TEST_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1])]
    return [path.read_bytes().decode("ascii", "replace").replace("\ufffd", "?").replace("\r\n", "\n").replace("\t", "    ") for path in chosen]


def train_tokenizer(texts: list[str], vocab_size: int) -> "Tokenizer":
    """A byte-pair encoding of these texts, without tokens for bytes that they do not have.

    Examples:
        >>> from jaxllc.models.python_text import train_tokenizer
        >>> tokenizer = train_tokenizer(["def f(x): return x", "def g(x): return x"], 30)
        >>> tokenizer.decode(tokenizer.encode("return f").ids)
        'return f'
    """
    require("tokenizers", "python_text")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=[], show_progress=False))
    return tokenizer


def encode(tokenizer: "Tokenizer", texts: list[str]) -> np.ndarray:
    """The tokens of all texts, one after the other, `uint16`.

    Examples:
        >>> from jaxllc.models.python_text import encode, train_tokenizer
        >>> text = ["def f(x): return x", "def g(x): return x"]
        >>> encode(train_tokenizer(text, 30), text).dtype
        dtype('uint16')
    """
    return np.concatenate([np.asarray(found.ids, np.uint16) for found in tokenizer.encode_batch(texts)])


KINDS = ("repeated pair", "new pair", "new token", "run")


def kinds_of_tokens(tokens_BxL: np.ndarray) -> np.ndarray:
    """What each of the tokens 1 .. L-1 is to those before it in its window, as an index of `KINDS`, `int[B, L - 1]`.

    0: it followed the token before it earlier in the window as well, so that induction finds it. 1: it occurred, but not after that token. 2: it did not occur.
    3: it is the token before it once more, as in a row of dashes.

    Examples:
        >>> import numpy as np
        >>> from jaxllc.models.python_text import KINDS, kinds_of_tokens
        >>> [KINDS[kind] for kind in kinds_of_tokens(np.array([[5, 6, 5, 6]]))[0]]
        ['new token', 'new pair', 'repeated pair']
    """
    tokens_BxL = np.asarray(tokens_BxL)
    same_BxLxL = tokens_BxL[:, :, None] == tokens_BxL[:, None, :]
    earlier_LxL = np.tri(tokens_BxL.shape[1], k=-1, dtype=bool)
    seen_BxL = (same_BxLxL & earlier_LxL).any(-1)[:, 1:]
    pair_BxL = (same_BxLxL[:, 1:, 1:] & same_BxLxL[:, :-1, :-1] & earlier_LxL[1:, 1:]).any(-1)
    return np.select([tokens_BxL[:, 1:] == tokens_BxL[:, :-1], pair_BxL, seen_BxL], [3, 0, 1], 2)
