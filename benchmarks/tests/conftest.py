"""The strict numerics of `tests/`."""

from tests.conftest import key as key  # importing it sets the numerics; the fixture is used here too
