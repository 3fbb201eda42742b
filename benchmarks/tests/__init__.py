"""Tests of the package beside; `pytest` collects them with those of `tests/`."""
