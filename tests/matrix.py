"""`make matrix`: the tests of the source distribution against the installed wheel, for each Python with the oldest and the newest packages.

Both are built once. Everything lies in a temporary folder, and the sources of the library are taken out of it, so that only the wheel has them. The oldest
packages are the lower bounds of pyproject.toml, those of its extras too, whose notes of deprecation are let pass; the newest are what pip finds for a Python.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
IN_WHEEL = r"jaxllc/([\w/]+\.py|py\.typed|report\.html)|jaxllc-[\d.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"
SHOWN = ("jax", "flax", "numpy", "zarr", "arviz-base")


def output(*command, where=None):
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, cwd=where).stdout.strip()


def build(folder):
    """The wheel, which is made from the source distribution, and the folder of the latter without the library."""
    output(sys.executable, "-m", "venv", folder / "build")
    output(folder / "build/bin/python", "-m", "pip", "install", "--quiet", "build[uv]")
    output(folder / "build/bin/python", "-m", "build", "--installer", "uv", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    junk = [name for name in output(sys.executable, "-m", "zipfile", "-l", wheel).splitlines()[1:] if not re.fullmatch(IN_WHEEL, name.split()[0])]
    if junk:
        sys.exit("what should not be in the wheel:\n" + "\n".join(junk))
    shutil.unpack_archive(sdist, folder)
    tests = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(tests / "jaxllc")
    return wheel, tests


def lower_bounds(pyproject):
    project = tomllib.loads(pyproject.read_text())["project"]
    needs = [need for some in (project["dependencies"], *project["optional-dependencies"].values()) for need in some]
    return sorted({f"{bound[1]}=={bound[2]}" for need in needs if (bound := re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", need))})


def try_one(python, packages, wheel, tests, options):
    """Whether the tests passed, and a line of the table."""
    began = time.monotonic()
    version = output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    where = wheel.parent / f"python{version}-{packages}"
    uv = [wheel.parent / "build/bin/uv", "--quiet"]
    output(*uv, "venv", "--python", python, where)
    pip, within = [*uv, "pip"], ["--python", where / "bin/python"]
    (wheel.parent / "oldest.txt").write_text("\n".join(lower_bounds(tests / "pyproject.toml")))
    bounds, warnings = (["--constraint", wheel.parent / "oldest.txt"], ["-W", "ignore::DeprecationWarning"]) if packages == "oldest" else ([], [])
    if subprocess.run([*pip, "install", *within, f"{wheel}[{options.extras}]", "pytest", "pytest-xdist", *bounds]).returncode:
        return False, [version, packages, *["-"] * len(SHOWN), "did not install", "-"]
    installed = dict(line.split("==") for line in output(*pip, "list", *within, "--format=freeze").splitlines() if "==" in line)
    begun = time.monotonic()
    command = [where / "bin/python", "-m", "pytest", "-q", "--tb=short", "-n", str(options.processes), "-m", "not slow", *warnings, *options.tests]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=tests)
    if done.returncode:
        print(done.stdout, flush=True)
    counts = done.stdout.strip().splitlines()[-1].split(" in ")[0]
    shutil.rmtree(where)
    return done.returncode == 0, [version, packages, *(installed[name] for name in SHOWN), counts, f"{begun - began:.0f} + {time.monotonic() - begun:.0f} s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=["tests"], help="files and other arguments of pytest")
    parser.add_argument("--pythons", nargs="+", default=["python3.11", "python3.12", "python3.13"])
    parser.add_argument("--packages", nargs="+", default=["oldest", "newest"], choices=["oldest", "newest"])
    parser.add_argument("--extras", default="all")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    lines, passed = [["Python", "packages", *SHOWN, "tests", "install + test"]], []
    with tempfile.TemporaryDirectory() as folder:
        wheel, tests = build(Path(folder))
        for python in options.pythons:
            if shutil.which(python) is None or subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode:
                print(f"{python}: skipped, since it is not here or does not run", flush=True)
                continue
            for packages in options.packages:
                fine, line = try_one(python, packages, wheel, tests, options)
                passed.append(fine)
                lines.append(line)
                print(*line, "" if fine else "FAILED", flush=True)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("", *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines), sep="\n")
    sys.exit(0 if passed and all(passed) else 1)


if __name__ == "__main__":
    main()
