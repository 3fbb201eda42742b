"""One experiment on the stages of development.

    python -m research.development NAME [--seeds S] [--quick] [--without PART ...]

A run that was stopped goes on where it was: checkpoints and draws are kept in `development/NAME`. The result goes to `benchmarks/results/NAME.json`
(of an experiment other than `induction`: `development-NAME.json`), the figure beside it.
"""

import argparse
import importlib
import os

import jax

jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", os.cpu_count() or 1)))

EXPERIMENTS = ("induction", "regression", "superposition", "saddle", "grokking")


def main() -> None:
    """Run, print the table, keep."""
    parser = argparse.ArgumentParser(prog="python -m research.development", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=None, help="training runs (default: as many as the experiment asks for)")
    parser.add_argument("--quick", action="store_true", help="a small run that shows that everything works, in three minutes")
    parser.add_argument("--without", nargs="+", default=[], metavar="PART", help="parts to leave out for now; a later call makes them up")
    options = parser.parse_args()
    experiment = importlib.import_module(f"research.development.{options.name}")
    optional = getattr(experiment, "OPTIONAL_PARTS", ())
    if unknown := sorted({*options.without} - {*optional}):
        parser.error(f"{options.name} has no part {', '.join(unknown)} to leave out; it has {', '.join(optional) or 'none'}.")
    result = experiment.run(options.seeds, options.quick, **({"without": options.without} if options.without else {}))
    print(experiment.table(result))


if __name__ == "__main__":
    main()
