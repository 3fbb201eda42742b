"""Every public name has an example in its docstring, or above the next name on its page of the reference, and all examples run."""

import doctest
import functools
import inspect
import io
import pkgutil
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from test_readme import ROOT

import jaxllc

mpl.use("agg")

REFERENCE = ROOT / "docs" / "reference"
if not REFERENCE.exists():
    pytest.skip("a source distribution holds the README alone", allow_module_level=True)

PAGES = "\n".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
RESULTS = (jaxllc.Estimate, jaxllc.Trajectory, jaxllc.Calibration)
"""Classes of which each public method has an example of its own."""

SLOW = {"Adam", "BlackJAX", "Calibration.plot", "ControlVariate", "HMC", "MALA", "MCLMC", "NUTS", "RMSProp", "SGHMC", "SGNHT", "Stream", "Trajectory.llc_of"}
"""Those that compile programs which no other example needs: together they take about as long as all others."""


def listed():
    """What the pages of the reference list, by its name below `jaxllc`; of modules what they define, or have in `__all__`."""
    found = {}
    for path in re.findall(r"^::: jaxllc\.(\S+)$", PAGES, re.M):
        value = pkgutil.resolve_name(f"jaxllc.{path}")  # a module rather than its function of the same name, as the site takes it
        found |= {f"{path}.{name}": part for name, part in parts(value).items()} if inspect.ismodule(value) else {path: value}
    return found


def parts(module):
    """The public functions and classes of a module."""
    names = getattr(module, "__all__", None) or [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return {name: getattr(module, name) for name in names if not name.startswith("_") and callable(getattr(module, name))}


def public():
    """Whatever a user calls, by name: the front page, what the reference lists beside it, and the methods of results."""
    front = {name: getattr(jaxllc, name) for name in jaxllc.__all__ if name != "__version__"}
    beside = {name: value for name, value in listed().items() if value not in front.values()}
    methods = [method for kind in RESULTS for name, method in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    return front | beside | {method.__qualname__: method for method in methods}


def example(name, value):
    """The statements of an example, and what they print."""
    on_page = re.search(rf"^`{re.escape(name)}`[^`]*```pycon\n(.*?)```", PAGES, re.M | re.S)
    text = on_page[1] if on_page else vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return doctest.DocTestParser().get_examples(text or "")


EXAMPLES = {name: example(name, value) for name, value in sorted(public().items())}


@functools.cache
def names():
    """What the first page of the reference defines for all examples."""
    found = {}
    exec(re.search(r"```python\n(.*?)```", (REFERENCE / "index.md").read_text(), re.S)[1], found)
    return found


def test_the_reference_lists_every_public_name():
    """The value, not only the name: some functions have that of their module."""
    missing = [name for name in jaxllc.__all__ if name != "__version__" and getattr(jaxllc, name) not in listed().values()]
    assert missing == []


def test_every_public_name_has_an_example():
    """Seen to fail without that of `default_nbeta`."""
    assert [name for name, statements in EXAMPLES.items() if not statements] == []


def test_examples_are_short():
    assert {name: len(statements) for name, statements in EXAMPLES.items() if len(statements) > 5} == {}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EXAMPLES])
def test_an_example_runs(name, tmp_path, monkeypatch):
    """With the names of the reference's first page alone, in a folder of its own. Seen to fail with a wrong number in the example of `default_nbeta`."""
    monkeypatch.chdir(tmp_path)
    wrong = io.StringIO()
    doctest.DocTestRunner().run(doctest.DocTest(EXAMPLES[name], dict(names()), name, None, None, None), out=wrong.write)
    plt.close("all")
    assert not wrong.getvalue(), wrong.getvalue()


def test_slow_ones_exist():
    assert set(EXAMPLES) >= SLOW
