"""Python's sources as text: what is read, that tokens give it back, and what each token is to those before it."""

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from jaxllc.models import python_text


def test_sources_are_those_of_tests_or_the_others(tmp_path):
    """Seen to fail with installed packages among them."""
    files = {
        "a.py": b"a = 1\n",
        "tests.py": b"b\n",
        "test/c.py": b"\tc = '\xc3\xa9'\r\n",
        "x/tests/d.py": b"d\n",
        "site-packages/test/e.py": b"e\n",
        "test/f.txt": b"f",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert python_text.read_sources(tmp_path, tests=True) == ["    c = '??'\n", "d\n"]
    assert python_text.read_sources(tmp_path, tests=False) == ["a = 1\n", "b\n"]


def test_the_modules_of_python_in_tokens():
    """They are split by file, every tenth held out, and the tokens give the text back."""
    corpus = python_text.python_text(300, tests=False, num_files=100)
    assert corpus.train.dtype == np.uint16
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = python_text.read_sources(root, tests=False)
    random.Random(0).shuffle(texts)
    assert corpus.tokenizer.decode(corpus.held_out.tolist()) == "".join(texts[:100:10])
    assert len(corpus.tokenizer.decode(corpus.train.tolist())) == sum(map(len, texts[:100])) - sum(map(len, texts[:100:10]))
    assert corpus.train.max() < corpus.tokenizer.get_vocab_size() == 300
    sample = 'def f(x):\n    return [x] * 2  # "?"\n'
    assert corpus.tokenizer.decode(python_text.encode(corpus.tokenizer, [sample]).tolist()) == sample


def test_the_tokenizer_merges_the_most_frequent_pair():
    """In "ababab ab" these are a and b; no tokens for bytes that are not in the text."""
    tokenizer = python_text.train_tokenizer(["ababab ab"], 4)
    assert sorted(tokenizer.get_vocab()) == sorted(["a", "b", "Ġ", "ab"])
    assert tokenizer.encode("abba").tokens == ["ab", "b", "a"]


def test_a_python_without_tests_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(python_text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="has no sources of tests; install them"):
        python_text.python_text(301)


def test_kinds_of_tokens_against_a_search():
    """Each token of random windows by looking through those before it. Seen to fail with pairs that end at the token itself counted as earlier ones."""
    tokens = np.random.default_rng(0).integers(0, 6, (20, 15))
    expected = np.empty((20, 14), int)
    for row, kinds in zip(tokens, expected, strict=True):
        for i in range(1, 15):
            pairs = [tuple(row[j - 1 : j + 1]) for j in range(1, i)]
            kinds[i - 1] = 3 if row[i] == row[i - 1] else 0 if tuple(row[i - 1 : i + 1]) in pairs else 1 if row[i] in row[:i] else 2
    np.testing.assert_array_equal(python_text.kinds_of_tokens(tokens), expected)
    assert set(expected.ravel()) == {0, 1, 2, 3}
