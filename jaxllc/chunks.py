"""The chunks of a store as bytes: single-precision numbers followed by their CRC-32C, flags, and texts, as the codecs of Zarr that it names lay them out.

Chunks are small and many, one for each array and place, and Zarr spends more on each than it takes to read and write it.
"""

import math
import struct
from typing import Any

import numpy as np

CRC_BYTES = 4
_NUMBER = np.dtype("<f4")


def encoded(values: np.ndarray) -> bytes:
    """Numbers, of codecs `bytes` and `crc32c`."""
    import google_crc32c  # which Zarr needs too

    content = np.ascontiguousarray(values, _NUMBER).tobytes()
    return content + int(google_crc32c.value(content)).to_bytes(CRC_BYTES, "little")


def decoded(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a chunk.

    Raises:
        ValueError: it is cut, or not as its checksum says.
    """
    import google_crc32c

    if len(content) != num_bytes(shape):
        raise ValueError("cut")
    if int.from_bytes(content[-CRC_BYTES:], "little") != google_crc32c.value(content[:-CRC_BYTES]):
        raise ValueError("damaged")
    return np.frombuffer(content[:-CRC_BYTES], _NUMBER).reshape(shape)


def num_bytes(shape: tuple[int, ...]) -> int:
    """Of a chunk of numbers."""
    return _NUMBER.itemsize * math.prod(shape) + CRC_BYTES


def text_encoded(text: str) -> bytes:
    """One text, of codec `vlen-utf8`: how many there are, its length, its bytes."""
    content = text.encode()
    return struct.pack("<II", 1, len(content)) + content


def text_decoded(content: bytes) -> str:
    """The text of a chunk.

    Raises:
        ValueError: it is cut.
    """
    if len(content) < 8 or struct.unpack("<II", content[:8]) != (1, len(content) - 8):
        raise ValueError("damaged")
    return content[8:].decode()


FLAG = b"\x01"
"""A chunk that holds the number 1 in one byte, of codec `bytes`."""
NUMBERS: dict[str, Any] = {"dtype": "float32", "fill_value": np.nan}
TEXTS: dict[str, Any] = {"dtype": "str", "fill_value": "", "compressors": None}
FLAGS: dict[str, Any] = {"dtype": "int8", "fill_value": 0, "compressors": None}
"""How arrays of such chunks are made; numbers need the compressor `Crc32cCodec` besides."""
