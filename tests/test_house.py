"""Imports are part of the interface: what loads when, and which way they point."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jaxllc"

ROOMS = (
    ("_typing", "_tree"),
    ("posterior", "free", "data", "checkpoints", "theory", "models", "metrics", "smoothing"),
    ("samplers",),
    ("engine", "reference", "held", "watch", "batching", "devices"),
    ("results", "observables"),
    ("diagnostics", "stages"),
    ("settings",),
    ("estimators",),
    ("store",),
    ("plots",),
    ("trajectory",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""The floors of the house, lowest first; what stands on one floor may import each other and what is below."""


def test_import_loads_what_sampling_needs():
    heavy = "xarray, pandas, arviz_stats, zarr, orbax, matplotlib, tqdm, blackjax, scipy.stats"
    code = f"import sys, jaxllc; print([name for name in {heavy.split(', ')!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_imports_point_down():
    floor = {name: level for level, names in enumerate(ROOMS) for name in names}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxllc"):
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names if alias.name in floor]
                for name in names:
                    assert floor[name] <= floor[room], f"{path.name} imports {name}, which lies above it"


def test_the_front_page_is_short():
    import jaxllc

    assert len(jaxllc.__all__) <= 30
    assert all(getattr(jaxllc, name).__doc__ for name in jaxllc.__all__)
