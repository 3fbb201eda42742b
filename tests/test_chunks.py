"""Chunks are those of Zarr, in both directions."""

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from jaxllc import chunks

VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
TEXTS = ("", "a", '{"failure": "λ̂ is not finite"}')


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning", "ignore::FutureWarning")
def test_what_is_written_here_zarr_reads_and_the_other_way_round(tmp_path):
    group = zarr.open_group(tmp_path / "s", mode="w")
    numbers = group.create_array("numbers", shape=(3, 4), chunks=(1, 4), compressors=(Crc32cCodec(),), **chunks.NUMBERS)
    texts = group.create_array("texts", shape=(3,), chunks=(1,), **chunks.TEXTS)
    flags = group.create_array("flags", shape=(2,), chunks=(1,), **chunks.FLAGS)
    numbers[0], texts[1], texts[2], flags[0] = VALUES[0], TEXTS[1], TEXTS[2], 1
    assert (tmp_path / "s/numbers/c/0/0").read_bytes() == chunks.encoded(VALUES[0])
    np.testing.assert_array_equal(chunks.decoded((tmp_path / "s/numbers/c/0/0").read_bytes(), (4,)), VALUES[0])
    for i in (1, 2):
        assert (tmp_path / f"s/texts/c/{i}").read_bytes() == chunks.text_encoded(TEXTS[i])
        assert chunks.text_decoded((tmp_path / f"s/texts/c/{i}").read_bytes()) == TEXTS[i]
    assert (tmp_path / "s/flags/c/0").read_bytes() == chunks.FLAG
    for i in (1, 2):
        (tmp_path / f"s/numbers/c/{i}").mkdir(parents=True)
        (tmp_path / f"s/numbers/c/{i}/0").write_bytes(chunks.encoded(VALUES[i]))
    (tmp_path / "s/texts/c/0").write_bytes(chunks.text_encoded(TEXTS[0]))
    read = zarr.open_group(tmp_path / "s", mode="r")
    np.testing.assert_array_equal(read["numbers"][:], VALUES)
    assert read["texts"][:].tolist() == list(TEXTS)
    assert read["flags"][:].tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_numbers_of_any_shape_come_back(shape):
    values = np.full(shape, np.nan, np.float32)
    np.testing.assert_array_equal(chunks.decoded(chunks.encoded(values), shape), values)


def test_every_flipped_bit_and_every_cut_is_seen():
    whole = chunks.encoded(VALUES[0])
    for i in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[i // 8] ^= 1 << i % 8
        with pytest.raises(ValueError, match="damaged"):
            chunks.decoded(bytes(changed), (4,))
    for i in range(len(whole)):
        with pytest.raises(ValueError, match="cut"):
            chunks.decoded(whole[:i], (4,))
    text = chunks.text_encoded(TEXTS[2])
    for i in range(len(text)):
        with pytest.raises(ValueError, match="damaged"):
            chunks.text_decoded(text[:i])
