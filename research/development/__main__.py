"""One experiment on the stages of development.

    python -m research.development NAME [--seeds S] [--quick] [--without PART ...]

A run that was stopped continues: checkpoints and draws are kept in `development/NAME`. The result is written to `research/results/NAME.json`, its
tables and the figure beside it.
"""

import argparse
import importlib
import os

import jax

from research.development.common import RESULTS, page

jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", os.cpu_count() or 1)))

EXPERIMENTS = ("induction", "regression", "text", "headers")


def main() -> None:
    """Run, save, print the table."""
    parser = argparse.ArgumentParser(prog="python -m research.development", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=None, help="number of training runs (default: that of the experiment)")
    parser.add_argument("--quick", action="store_true", help="a small run of about three minutes, to see that everything works")
    parser.add_argument("--without", nargs="+", default=[], metavar="PART", help="parts to leave out; a later call without this adds them")
    options = parser.parse_args()
    experiment = importlib.import_module(f"research.development.{options.name}")
    optional = getattr(experiment, "OPTIONAL_PARTS", ())
    if unknown := sorted({*options.without} - {*optional}):
        parser.error(f"{options.name} has no part {', '.join(unknown)} to leave out; it has {', '.join(optional) or 'none'}.")
    result = experiment.run(options.seeds, options.quick, **({"without": options.without} if options.without else {}))
    text = experiment.table(result)
    (RESULTS / f"{options.name}{'-quick' if options.quick else ''}.md").write_text(page(options.name, text))
    print(text)


if __name__ == "__main__":
    main()
