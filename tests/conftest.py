"""Strict numerics for all tests: typed keys used once, no silent promotion of dtypes or ranks; four host devices, and compiled programs kept."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two test processes share the cores; numpy reads it when it is first imported

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_compilation_cache_dir", str(Path(".jax_cache").absolute()))  # whatever folder a test works in
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def key():
    return jax.random.key(0)


MOST_MAPS = 30_000
"""Of the 65 530 regions of memory that Linux lets a process map; XLA's programs are some of them each, and it crashes where there are no more."""


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Let go of the compiled programs of earlier modules before they are too many; the next one that needs them reads them from the cache on disk."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
