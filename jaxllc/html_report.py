"""A store as one page: `jaxllc report`. It holds its numbers and the plotting library, and asks nothing of a network."""

import html
import importlib.resources
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from jaxllc import estimator, results
from jaxllc._extras import require
from jaxllc.estimate import Estimate
from jaxllc.stages import MIN_CHECKPOINTS
from jaxllc.tables import lines_done
from jaxllc.trajectory import Trajectory, open_store
from jaxllc.views import with_steps

MOST_POINTS = 40_000
"""Draws of all chains and checkpoints that a page holds; longer chains are means over blocks."""
CITATION = "jaxllc {version}: local learning coefficients with many chains over many checkpoints, in JAX. The jaxllc authors. MIT licence."


def write(store: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the page of a store.

    Args:
        store: what `jaxllc run`, `jaxllc.trajectory` or `Estimate.save` wrote, or still writes.
        out: the HTML file.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ModuleNotFoundError: the package `plotly` is missing.
        ValueError: it is no store of this library, or holds no checkpoint yet.
    """
    Path(out).write_text(page(open_store(store), str(store)), encoding="utf-8")


def page(result: Estimate | Trajectory, name: str) -> str:
    """The page of a result.

    Args:
        result: of a checkpoint, or of the checkpoints of one or several runs.
        name: that of its store, for the title and the command.

    Raises:
        ModuleNotFoundError: the package `plotly` is missing.
    """
    require("plotly", "the report")
    from plotly.offline import get_plotlyjs

    traj = result if isinstance(result, Trajectory) else Trajectory(with_steps(result.data))
    template = importlib.resources.files("jaxllc").joinpath("report.html").read_text(encoding="utf-8")
    data = json.dumps(contents(traj, name), allow_nan=False).replace("<", "\\u003c")
    return template.replace("{{title}}", html.escape(Path(name).name)).replace("{{data}}", data).replace("{{plotly}}", get_plotlyjs())


def contents(traj: Trajectory, name: str) -> dict[str, Any]:
    """All that a page shows, as plain values; numbers that are not finite are None."""
    attributes = results.attributes(traj.data)
    found = [[(finding.code, finding.message) for finding in some] for some in traj.findings()]
    version = attributes.get("versions", {}).get("jaxllc", "")
    return {
        "name": name,
        "command": shlex.join(["jaxllc", "report", name, "-o", f"{Path(name).stem}.html"]),
        "citation": CITATION.format(version=version).replace("  ", " "),
        "curves": [curve for one, part in _parts(traj) for curve in _curves(one, part)],
        "findings": _grouped(found, _places(traj)),
        "settings": {key: str(value) for key, value in traj.settings.to_dict().items()},
        "about": {key: str(attributes[key]) for key in ("num_examples", "num_weights", "key", "versions") if key in attributes},
        "reasons": list((attributes.get("calibration") or {}).get("reasons", ())),
        "failures": [[str(place), why] for place, why in traj.failures.items()],
    }


def _parts(traj: Trajectory) -> list[tuple[Trajectory, str]]:
    return [(traj.component(name), name) for name in traj.components] if traj.components else [(traj, "")]


def _curves(traj: Trajectory, part: str) -> list[dict[str, Any]]:
    """One for each training run: λ̂, losses, scalar probes, stages, and the chains of each checkpoint."""
    summary, names = traj.summary, [str(run) for run in traj.summary[results.RUN].values] if results.RUN in traj.summary.dims else [""]
    step, draws = summary["step"].values, estimator.corrected_draws(traj.data)
    draws = draws.reshape(len(names), len(step), *draws.shape[-2:])
    codes, stages = iter([[finding.code for finding in some] for some in traj.findings()]), _stages(traj)
    done = lines_done(traj.data).reshape(len(names), len(step))  # where all chains diverged there are findings and no number
    failed = {(place.run or "", place.step) for place in traj.failures}
    curves = []
    for i, run in enumerate(names):
        one = summary.isel(run=i) if results.RUN in summary.dims else summary
        curves.append(
            {
                "name": " ".join(word for word in (run, part) if word),
                "step": [int(at) for at in step],
                **{name: _plain(one[name].values) for name in ("llc", "std_error", "loss", "mean_loss", "rhat", "ess") if name in one},
                "codes": [next(codes) if is_done else ["failed"] if (run, int(at)) in failed else [] for is_done, at in zip(done[i], step, strict=True)],
                "probes": {name: _plain(np.reshape(values, (len(names), -1))[i]) for name, values in results.scalars(traj.data).items()},
                "stages": stages.get(run, []),
                **_chains(draws[i], MOST_POINTS // len(names)),
            }
        )
    return curves


def _stages(traj: Trajectory) -> dict[str, list[dict[str, Any]]]:
    """The stages of each run, by its name; none where checkpoints are too few."""
    if traj.summary.sizes["step"] < MIN_CHECKPOINTS:
        return {}
    try:
        table = traj.stages()
    except ValueError:  # too few checkpoints with a finite number
        return {}
    columns = ["start", "start_low", "start_high", "end", "end_low", "end_high", "type", "delta_llc", "delta_llc_error", "delta_loss"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_dict("records"):
        plain = {name: row[name] if isinstance(row[name], str) else _plain(row[name]) for name in columns}
        found.setdefault(str(row.get("run", "")), []).append(plain)
    return found


def _chains(draws: np.ndarray, most: int) -> dict[str, Any]:
    """Draws of each checkpoint, `[checkpoint, chain, draw]`, as means over so many of them where they are more than a page holds."""
    count, chains, length = draws.shape
    block = -(-length // max(20, min(length, most // (count * chains))))
    means = draws[..., : length // block * block].reshape(count, chains, -1, block).mean(-1)
    return {"draws_a_point": block, "chains": [[_plain(chain) for chain in one] for one in means]}


def _places(traj: Trajectory) -> list[str]:
    tables = traj.table()
    done = tables[tables["findings"] != "failed"] if "findings" in tables else tables
    return [" ".join(map(str, place)) if isinstance(place, tuple) else f"{place}" for place in done.index]


def _grouped(found: list[list[tuple[str, str]]], places: list[str]) -> list[dict[str, Any]]:
    """Each code once: a message, and where it was found."""
    grouped: dict[str, dict[str, Any]] = {}
    for place, some in zip(places, found, strict=True):
        for code, message in some:
            grouped.setdefault(code, {"code": code, "message": message, "places": []})["places"].append(place)
    return sorted(grouped.values(), key=lambda one: -len(one["places"]))


def _plain(values: Any) -> Any:
    """Numbers to five digits, None where they are not finite."""
    if np.ndim(values):
        return [_plain(value) for value in np.asarray(values)]
    return float(f"{float(values):.5g}") if np.isfinite(values) else None
