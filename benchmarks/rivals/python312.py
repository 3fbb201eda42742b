"""Gives Python 3.11 the one name of 3.12 that canonical-interp needs, `itertools.batched`. To be imported before it."""

import itertools

if not hasattr(itertools, "batched"):

    def batched(iterable, size):
        iterator = iter(iterable)
        while chunk := tuple(itertools.islice(iterator, size)):
            yield chunk

    itertools.batched = batched
