"""Facts of the house, read off the source: which way imports point, how large functions and files are, what loads when, and which words stand where."""

import ast
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jaxllc

PACKAGE = Path(jaxllc.__file__).parent

FLOORS = (
    (
        "_typing",
        "_tree",
        "_plain",
        "_struct",
        "_extras",
        "selections",
        "source",
        "locations",
        "chunks",
        "signs",
        "save_schedule",
        "stopping",
        "spectrum",
        "convolutions",
        "theory",
        "metrics",
        "smoothing",
    ),
    (
        "layout",
        "posterior",
        "select",
        "parts",
        "components",
        "data",
        "stream",
        "checkpoints",
        "orbax_items",
        "safetensors_checkpoints",
        "settings",
        "sampler",
        "models",
    ),
    ("samplers", "stepsize", "probes", "timetable", "placement", "full_data", "losscheck", "reductions", "config"),
    ("engine", "chain", "starts", "results", "views", "recording"),
    (
        "plan",
        "series",
        "covariance",
        "store_arrays",
        "writers",
        "store",
        "reading",
        "diagnostics",
        "mixing",
        "error_bars",
        "runs",
        "absorbed",
        "pilots",
        "progress",
    ),
    (
        "estimator",
        "tables",
        "influence",
        "plots_of_covariances",
        "grouping",
        "pipeline",
        "step_bias",
        "request",
        "candidates",
        "candidate_hmc",
        "candidate_sgld",
        "maps",
        "stages",
        "boundaries",
        "recurrence",
        "plots",
    ),
    ("calibrate", "estimate", "job", "trajectory"),
    ("cli", "launch", "reports", "html_report", "demo", "__main__"),
)
"""Lowest first; what stands on one floor may import each other, without a circle, and what is below."""

FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}

MAX_ARGUMENTS = {("estimate.py", "estimate"): 11, ("trajectory.py", "trajectory"): 16, ("engine.py", "sample"): 10}
"""Own arguments, beside which keywords may override settings; of any other function at most 8."""


def parsed(folder=PACKAGE):
    return {path.relative_to(folder).as_posix(): ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def module_of(file):
    """The dotted name of a file of the package below `jaxllc`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_of(tree, modules):
    """The modules of the package that a file imports, also within functions and for the checker of types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("jaxllc.") for alias in node.names if alias.name.startswith("jaxllc."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxllc":
            inner = node.module.removeprefix("jaxllc").removeprefix(".")
            for alias in node.names:
                whole = f"{inner}.{alias.name}".removeprefix(".")
                yield whole if whole in modules else inner


def graph():
    files = {module_of(file): tree for file, tree in parsed().items() if file != "__init__.py"}
    return {name: {found for found in imports_of(tree, files) if found} for name, tree in files.items()}


def functions(trees):
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node


def test_every_file_has_a_floor():
    assert {module.split(".")[0] for module in graph()} == set(FLOOR)


def test_no_import_points_up():
    """Seen to fail with an import of `estimator` within a function of `engine`."""
    up = [f"{name} imports {other}" for name, others in graph().items() for other in others if FLOOR[other.split(".")[0]] > FLOOR[name.split(".")[0]]]
    assert up == []


def test_no_circles():
    """Among files, also of one floor: a depth-first search meets no file that it is still within.

    Seen to fail with an import of `runs` within a function of `store`.
    """
    edges, finished = graph(), set()

    def visit(name, path):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in finished:
            for other in sorted(edges.get(name, ())):
                visit(other, [*path, name])
            finished.add(name)

    for name in edges:
        visit(name, [])


def test_results_names_arrays_and_imports_nothing_that_samples():
    assert graph()["results"] == {"reductions"}


def test_the_engine_knows_nothing_of_the_coefficient():
    """In no name, argument, attribute or keyword."""
    for file in ("engine.py", "recording.py"):
        tree = parsed()[file]
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg | ast.keyword) and node.arg}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert [name for name in names if "llc" in name.lower() and name != "jaxllc"] == []


def test_the_coefficient_is_computed_in_one_file():
    """Only `estimator` writes the arrays of the coefficient, so only there and in the schema do their names stand as keys.

    Seen to fail with `{results.LLC: 1}` in `trajectory`.
    """
    writers = set()
    for file, tree in parsed().items():
        for node in ast.walk(tree):
            keys = node.keys if isinstance(node, ast.Dict) else []
            named = {ast.unparse(key).split(".")[-1] for key in keys if key is not None}
            writers |= {file} if named & {"LLC", "STEP_BIAS", "LLC_CORRECTION", "STEP_BIAS_CORRECTION"} else set()
    assert writers == {"estimator.py", "results.py"}


def test_a_sampler_is_asked_by_its_class():
    """No `getattr(sampler, ...)`, `hasattr` or `vars` of one: the base class declares what others may ask."""
    for file, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "vars") and node.args:
                assert "sampler" not in ast.unparse(node.args[0]), f"{file}:{node.lineno}: {ast.unparse(node)}"


def test_arguments_can_be_counted_on_the_fingers():
    """Without self, and without the keywords that `**` stands for. Seen to fail with 8 in the place of 10."""
    for file, node in functions(parsed()):
        arguments = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")]
        most = MAX_ARGUMENTS.get((file, node.name), 8)
        assert len(arguments) <= most, f"{file}: {node.name} has {len(arguments)} arguments, {', '.join(arguments)}"


@pytest.mark.parametrize("folder", [PACKAGE, Path(__file__).parent], ids=["jaxllc", "tests"])
def test_functions_fit_on_a_page_and_files_in_a_sitting(folder):
    """60 lines a function, with decorators and docstring, and 300 a file."""
    for path in sorted(folder.rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 300, f"{path.name} has more than 300 lines"
    for file, node in functions(parsed(folder)):
        length = node.end_lineno - min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) + 1
        assert length <= 60, f"{file}: {node.name} has {length} lines"


def test_import_loads_what_sampling_needs():
    heavy = "xarray, pandas, arviz_stats, zarr, orbax, matplotlib, tqdm, blackjax, scipy.stats, flax, jax.extend, tomllib"
    code = f"import sys, jaxllc; print([name for name in {heavy.split(', ')!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def own_docstring(value):
    """The docstring that a class or function has itself: neither one that it inherits, nor the signature that dataclasses and named tuples get."""
    text = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return None if text is None or text.startswith(f"{value.__name__}(") else text


def test_every_public_name_tells_what_it_is():
    """In a docstring of its own, and so do the public methods of its class. Seen to fail without the docstring of `RMSProp`: its base has one."""
    for name in set(jaxllc.__all__) - {"__version__"}:
        value = getattr(jaxllc, name)
        assert own_docstring(value), f"jaxllc.{name}"
        for method, function in vars(value).items() if isinstance(value, type) else ():
            if isinstance(function, types.FunctionType) and not method.startswith("_") and function.__module__.startswith("jaxllc"):
                assert own_docstring(function), f"jaxllc.{name}.{method}"


def test_the_front_page_is_short():
    assert len(jaxllc.__all__) <= 49
    assert jaxllc.__version__.count(".") == 2


def test_all_say_the_same_version():
    """The installed package, how to cite it, and the last version of the changelog, of one day."""
    root = Path(__file__).parents[1]
    citation = dict(re.findall(r"^(version|date-released): (.*)$", (root / "CITATION.cff").read_text(), re.M))
    version, day = re.findall(r"^## \[(\d.*?)\] - (.*)$", (root / "CHANGELOG.md").read_text(), re.M)[0]
    assert citation == {"version": version, "date-released": day}
    assert jaxllc.__version__ == version
