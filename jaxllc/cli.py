"""The command `jaxllc`: parse, set the machine up, call a verb."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(
        prog="jaxllc",
        description="Local learning coefficients over the checkpoints of a training run.",
        epilog="From Python: jaxllc.estimate for one checkpoint, jaxllc.trajectory for a run.",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="XLA host devices on a CPU, over which chains are spread (default: one a core, %(default)s)",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    demo = verbs.add_parser(
        "demo",
        help="train a small transformer on real text and follow λ̂ through its training",
        description="Train a two-layer attention-only transformer on the source of Python's standard library, keep its checkpoints, and estimate the "
        "local learning coefficient at each with eight chains, calibrated. Prints a table; writes checkpoints/, llc.zarr and llc.png. "
        "A second call with the same --out goes on where the first one stopped.",
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where everything is written (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="a shorter run, fewer checkpoints and draws: within a minute instead of a few")
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="of the weights, the batches and the chains (default: %(default)s)")
    demo.add_argument("--no-progress", action="store_true", help="no progress bars")
    demo.set_defaults(verb=_demo)

    options = parser.parse_args(arguments)
    _set_up(options.devices)
    options.verb(options)


def _set_up(devices: int) -> None:
    """Spread a CPU's cores over XLA devices and keep compiled programs; before JAX starts its backend, or in vain."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxllc"
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _demo(options: argparse.Namespace) -> None:
    from jaxllc.demo import run_demo

    run_demo(options.out, quick=options.quick, seed=options.seed, progress=not options.no_progress)
