"""The experiment `text` on C headers, on which induction heads form sooner and at more even times: the text that decides the verdict."""

from collections.abc import Collection
from typing import Any

from research.development import text
from research.development.text import OPTIONAL_PARTS as OPTIONAL_PARTS
from research.development.text import table as table


def run(seeds: int | None, quick: bool, without: Collection[str] = ()) -> dict[str, Any]:
    """On the C headers of this machine."""
    return text.run_on("headers", text.QUICK if quick else text.HEADERS, seeds, quick, without)
