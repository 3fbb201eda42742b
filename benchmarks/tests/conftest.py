"""The strict numerics of `tests/`."""

from tests.conftest import few_programs as few_programs  # importing it sets the numerics; the fixtures are used here too
from tests.conftest import key as key
