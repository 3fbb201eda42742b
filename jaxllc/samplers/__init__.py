"""Samplers: one algorithm a file, all with `init` and `step`."""
