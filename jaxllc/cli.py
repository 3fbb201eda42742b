"""The command `jaxllc`: parse, set the machine up, call a verb, and end with a code that a scheduler understands."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FAILED = 1
"""The exit code after an error, which the log names; 0 is all done, `RESUMABLE` stopped early."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to those of the process."""
    options = _parser().parse_args(arguments)
    logger = _logger(getattr(options, "debug", False))
    from jaxllc.stopping import RESUMABLE, Stopped

    code = FAILED
    try:
        _set_up(options)
        options.verb(options)
        return
    except Stopped as stopped:
        logger.warning("%s", stopped)
        code = RESUMABLE
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, SystemExit) as error:  # SystemExit of a function of the user's
        logger.error("%s: %s", type(error).__name__, " ".join(str(error).split()), exc_info=logger.isEnabledFor(logging.DEBUG))
    if code == RESUMABLE or getattr(options, "distributed", False):
        sys.stdout.flush()
        os._exit(code)  # neither the devices, which may be at work, nor other processes are waited for
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxllc",
        description="Local learning coefficients over the checkpoints of a training run.",
        epilog="From Python: jaxllc.estimate for one checkpoint, jaxllc.trajectory for a run.",
    )
    parser.add_argument("--devices", type=_count, default=_cores(), **_DEVICES)
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="log more, and show where an error came from")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_run(verbs, debug)
    _add_readers(verbs, debug)
    _add_demo(verbs, debug)
    return parser


_DEVICES: dict[str, Any] = {"metavar": "N", "help": "XLA host devices on a CPU, over which chains are spread (default: one a core)"}


def _add_run(verbs: _Verbs, debug: argparse.ArgumentParser) -> None:
    run = verbs.add_parser(
        "run",
        parents=[debug],
        help="follow the checkpoints of a configuration, in one process or in many",
        description="Estimate the local learning coefficient at each checkpoint of a configuration (see docs/batch.md) and write it to a store. The same line "
        "again goes on where it stopped. Exit codes: 0 done, 75 stopped by SIGTERM or SIGINT and resumable, 1 failed.",
    )
    run.add_argument("config", type=Path, metavar="CONFIG.toml", help="what to run; modules beside it are found")
    run.add_argument("--set", action="append", default=[], dest="changes", metavar="NAME=VALUE", help="a value of it, such as settings.nbeta=300")
    run.add_argument("--store", metavar="PATH", help="the store, in the place of the configuration's")
    run.add_argument("--no-progress", action="store_true", help="neither a bar nor, without a terminal, a line each minute")
    run.add_argument("--devices", type=_count, default=argparse.SUPPRESS, **_DEVICES)
    share = run.add_mutually_exclusive_group()
    share.add_argument("--part", type=_part, metavar="I/N", help="only the I-th of N parts of the checkpoints; other processes do the others")
    share.add_argument("--distributed", action="store_true", help="share the checkpoints with the other processes of jax.distributed")
    run.add_argument("--coordinator", metavar="HOST:PORT", help="of --distributed, like the next two, where JAX cannot find it out: of process 0")
    run.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    run.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")
    run.set_defaults(verb=_run)


def _add_readers(verbs: _Verbs, debug: argparse.ArgumentParser) -> None:
    for name, verb, text in (
        ("status", _status, "how far a store is: done, rate, time left, findings, failures, who writes"),
        ("table", _table, "the coefficients of a store, one line a checkpoint"),
        ("plot", _plot, "a picture of a store"),
        ("report", _report, "a page of a store, for a browser and without network"),
    ):
        reader = verbs.add_parser(name, parents=[debug], help=text, description=f"{'Print' if verb in (_status, _table) else 'Make'} {text}.")
        reader.add_argument("store", metavar="STORE", help="what `jaxllc run` or jaxllc.trajectory wrote, or still writes")
        reader.set_defaults(verb=verb)
        if verb is _table:
            reader.add_argument("--csv", nargs="?", const="-", metavar="FILE", help="comma-separated values, to a file or else to the output")
        if verb in (_plot, _report):
            kind = "PNG" if verb is _plot else "HTML"
            reader.add_argument("-o", "--out", type=Path, metavar=kind, help="where to (default: named like the store, in this folder)")


def _add_demo(verbs: _Verbs, debug: argparse.ArgumentParser) -> None:
    demo = verbs.add_parser(
        "demo",
        parents=[debug],
        help="train a small transformer on real text and follow λ̂ through its training",
        description="Train a two-layer attention-only transformer on the source of Python's standard library, keep its checkpoints, and estimate the "
        "local learning coefficient at each with eight chains, calibrated. Prints a table; writes checkpoints/, llc.zarr and llc.png. "
        "A second call with the same --out goes on where the first one stopped.",
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where everything is written (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="a shorter run, fewer checkpoints and draws")
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="of the weights, the batches and the chains (default: %(default)s)")
    demo.add_argument("--no-progress", action="store_true", help="no progress bars")
    demo.set_defaults(verb=_demo)


def _part(text: str) -> tuple[int, int]:
    """`3/8` as it is counted in Python, (2, 8)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write 3/8 for the third of eight")
    return int(index) - 1, int(count)


def _count(text: str) -> int:
    """A number of devices."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of devices; write 1 or more")
    return int(text)


def _cores() -> int:
    """Cores that this process may use, which a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _logger(debug: bool) -> logging.Logger:
    """The library's logger, which writes to the error output, above a bar where there is one."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    handler = Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("jaxllc")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    warnings.showwarning = lambda message, *_: logger.warning("%s", message)
    logging.getLogger("absl").setLevel(logging.DEBUG if debug else logging.ERROR)
    return logger


def _set_up(options: argparse.Namespace) -> None:
    """Spread a CPU's cores over XLA devices and keep compiled programs; before JAX starts its backend, or in vain. Who only reads needs no accelerator."""
    import jax

    if options.verb in (_status, _table, _plot, _report):
        jax.config.update("jax_platforms", "cpu")
        return
    jax.config.update("jax_num_cpu_devices", options.devices)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxllc"
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _run(options: argparse.Namespace) -> None:
    from jaxllc.config import RunConfig
    from jaxllc.launch import Cluster, run

    cluster = Cluster(options.coordinator, options.num_processes, options.process_id)
    if cluster != Cluster() and not options.distributed:
        raise ValueError("--coordinator, --num-processes and --process-id are those of --distributed, which is missing.")
    config = RunConfig.from_toml(options.config, options.changes)
    if options.store:
        config = config.with_store(options.store)
    connected = cluster if options.distributed else None
    run(config, part=options.part, cluster=connected, progress=not options.no_progress, ends_process=True)


def _status(options: argparse.Namespace) -> None:
    from jaxllc.reports import status

    _print(status(options.store))


def _table(options: argparse.Namespace) -> None:
    from jaxllc.reports import table

    if options.csv is None:
        _print(table(options.store).to_string())
    elif options.csv == "-":
        _print(table(options.store).to_csv().rstrip("\n"))
    else:
        table(options.store).to_csv(options.csv)


def _plot(options: argparse.Namespace) -> None:
    from jaxllc._extras import require

    require("matplotlib", "jaxllc plot")
    import matplotlib as mpl

    import jaxllc

    mpl.use("agg")
    out = options.out or Path(Path(options.store).with_suffix(".png").name)
    jaxllc.open(options.store).plot()[0].figure.savefig(out)
    _print(str(out))


def _report(options: argparse.Namespace) -> None:
    from jaxllc.html_report import write

    out = options.out or Path(Path(options.store).with_suffix(".html").name)
    write(options.store, out)
    _print(str(out))


def _demo(options: argparse.Namespace) -> None:
    from jaxllc.demo import run_demo

    run_demo(options.out, quick=options.quick, seed=options.seed, progress=not options.no_progress)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
