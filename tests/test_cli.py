"""The command line as a user types it."""

import os
import subprocess
import sys

import pytest
import xarray as xr


def jaxllc(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "jaxllc", *arguments], capture_output=True, text=True, **options)


def test_help_reads_well():
    shown = jaxllc("--help")
    assert shown.returncode == 0
    assert "demo" in shown.stdout
    assert "train a small transformer" in shown.stdout
    shown = jaxllc("demo", "--help").stdout
    assert "--quick" in shown
    assert "goes on where the first one stopped" in " ".join(shown.split())


def test_a_wrong_verb_is_refused():
    done = jaxllc("dmeo")
    assert done.returncode == 2
    assert "demo" in done.stderr


def test_the_demo_refuses_the_folder_of_another_run(tmp_path):
    (tmp_path / "demo.json").write_text('{"num_steps": 7, "seed": 0}')
    done = jaxllc("demo", "--quick", "--out", str(tmp_path))
    assert done.returncode != 0
    assert "holds the demo of {'num_steps': 7, 'seed': 0}" in done.stderr
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_compiled_programs_are_kept(chosen, tmp_path):
    """In the user's cache, or where the user's own setting says, in a process of its own. Seen to fail with the setting left out of `_set_up`."""
    code = (
        "import jax; from jaxllc import cli\n"
        "cli._demo = lambda options: print(jax.device_count(), jax.config.jax_compilation_cache_dir)\n"
        "cli.main(['--devices', '3', 'demo'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | {"XDG_CACHE_HOME": str(tmp_path)}
    if chosen:
        environment["JAX_COMPILATION_CACHE_DIR"] = chosen
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["3", chosen or str(tmp_path / "jaxllc")]


@pytest.mark.slow
def test_the_quick_demo_and_its_second_call(tmp_path):
    first = jaxllc("demo", "--quick", "--no-progress", "--out", str(tmp_path / "demo"))
    assert first.returncode == 0, first.stderr
    assert "R-hat  findings" in first.stdout
    assert (tmp_path / "demo" / "llc.png").stat().st_size > 10_000
    with xr.open_datatree(tmp_path / "demo" / "llc.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["posterior/llc"].sizes["chain"] == 8
    written = (tmp_path / "demo" / "llc.zarr" / "posterior" / "llc").stat().st_mtime_ns
    second = jaxllc("demo", "--quick", "--no-progress", "--out", str(tmp_path / "demo"))
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "demo" / "llc.zarr" / "posterior" / "llc").stat().st_mtime_ns == written
    assert [line for line in first.stdout.splitlines() if "±" in line] == [line for line in second.stdout.splitlines() if "±" in line]


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_devices_are_one_or_more(number):
    done = jaxllc("run", "run.toml", "--devices", number)
    assert done.returncode == 2
    assert f"{number!r} is no number of devices" in done.stderr
