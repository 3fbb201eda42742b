r"""How near $\hat\lambda$ comes to the truth without any setting by hand, on the problems of the `zoo`, and whether it says so where it does not.

    python -m benchmarks.calibration [--only NAME ...] [--keys N] [--settings default|sgld] [--quick]
    python -m benchmarks.calibration --references [--only NAME ...]
    python -m benchmarks.calibration --report

Each problem and key is one call of `jaxllc.estimate(loss_fn, params, data, key=key)`, compiled anew. It is compared with the reference on the same posterior
(`zoo_references`), which is made where there is none for the nbeta and localization that the estimate reports. `--settings sgld` samples as the library did
before it calibrated: SGLD, 8 chains of 1500 iterations. Finished lines stay in results/calibration.jsonl, and a second call continues. `--references` makes
the references at $n\beta = n / \ln n$ and $\gamma = 1$ only, `--report` prints the tables of what is there.
"""

import argparse
import datetime
import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import jaxllc
from benchmarks import report_calibration, zoo, zoo_references
from benchmarks.report import RESULTS, ROOT

SETTINGS: dict[str, jaxllc.Settings | None] = {
    "default": None,
    "sgld": jaxllc.Settings(sampler=jaxllc.SGLD(None), localization=1.0, batch_size=256, num_chains=8, num_burn_in=500, num_draws=1000),
}
"""None leaves everything to the library; the other is what it did with no settings before it calibrated."""
QUICK = ("quadratic-1e2", "cancer-raw", "crossing-22")
NUM_KEYS = 5


def measure(name: str, key: int, settings: str) -> dict[str, Any]:
    """One line: the estimate of a problem by one key, how it was sampled, its findings, and the seconds of the whole call."""
    loss_fn, params, data = zoo.make(name)
    jax.clear_caches()  # so that every call pays for its compilation
    line = {"problem": name, "key": key, "settings": settings}
    began = time.perf_counter()
    try:
        est = jaxllc.estimate(loss_fn, params, data, SETTINGS[settings], key=jax.random.key(key), progress=False)
        findings = [[finding.code, finding.message] for finding in est.findings]
    except Exception as error:  # an error is an answer too: it is counted as no number
        return line | {"error": f"{type(error).__name__}: {error}", "seconds": round(time.perf_counter() - began, 1), **_made_by()}
    took = time.perf_counter() - began
    attributes = est.data.attrs
    calibration = attributes.get("calibration", {}).get("seconds")
    return line | {
        "llc": _finite(est.llc), "std_error": _finite(est.std_error), "rhat": _finite(est.rhat), "ess": _finite(est.ess), "findings": findings,
        "nbeta": float(attributes["nbeta"]), "localization": float(attributes["localization"]), "sampler": _sampler(attributes["sampler"]),
        **{name: int(attributes[name]) for name in ("num_chains", "num_draws", "num_burn_in")},
        "seconds": round(took, 1), "calibration_seconds": None if calibration is None else round(float(calibration), 1), **_made_by(),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _sampler(sampler: Any) -> str:
    return str(sampler.get("name", sampler)) if isinstance(sampler, dict) else str(sampler)


def _made_by() -> dict[str, str]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"commit": commit, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def main() -> None:
    """Measure what is missing, keep each line at once, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(zoo.PROBLEMS), metavar="NAME", help=f"of {', '.join(zoo.PROBLEMS)}")
    parser.add_argument("--keys", type=int, default=NUM_KEYS, help=f"of each problem, default {NUM_KEYS}")
    parser.add_argument("--settings", choices=list(SETTINGS), default="default", help="none (default), or the SGLD that was the default before")
    parser.add_argument("--quick", action="store_true", help="one key of three cheap problems, into a file of its own")
    parser.add_argument("--references", action="store_true", help="make the references only")
    parser.add_argument("--report", action="store_true", help="print the tables only")
    options = parser.parse_args()
    path = RESULTS / f"calibration{'-quick' if options.quick else ''}.jsonl"
    names: Sequence[str] = options.only or (QUICK if options.quick else list(zoo.PROBLEMS))
    if options.references:
        for name in names:
            setting = zoo_references.default_setting(zoo.make(name))
            _print_reference(zoo_references.reference(name, setting["nbeta"], setting["localization"]))
    elif not options.report:
        run(path, names, range(1 if options.quick else options.keys), options.settings)
    print(report_calibration.text(zoo_references.lines(path), zoo_references.lines(zoo_references.PATH)))


def run(path: Path, names: Sequence[str], keys: range, settings: str) -> None:
    """Add what is missing: all problems by the first key, then by the next, so that a run that is stopped has seen all of them."""
    for key in keys:
        for name in names:
            if not any((line["problem"], line["key"], line["settings"]) == (name, key, settings) for line in zoo_references.lines(path)):
                line = measure(name, key, settings)
                zoo_references.append(path, line)
                print(f"{name}, key {key}: {_summary(line)}", flush=True)
                if "error" not in line:
                    zoo_references.reference(name, line["nbeta"], line["localization"])


def _summary(line: dict[str, Any]) -> str:
    if "error" in line:
        return str(line["error"])
    value = "no number" if line["llc"] is None else f"{line['llc']:.4g} ± {line['std_error'] or math.nan:.2g}"
    return f"{value}, {', '.join(code for code, _ in line['findings']) or 'no findings'}, {line['seconds']} s"


def _print_reference(line: dict[str, Any]) -> None:
    mixed = "" if line["by"] != "chains" else f", R-hat {line['rhat']:.3f} and {line['rhat_distance']:.3f}, {line['draws']} draws of {line['chains']} chains"
    print(f"{line['problem']}: {line['llc']:.4f} ± {line['std_error']:.4f} ({line['by']}{mixed})", flush=True)


if __name__ == "__main__":
    main()
