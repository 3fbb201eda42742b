"""The tables on components beside devinterp, from the result of `benchmarks.components`."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import digits, table

MATRICES = {"kernel": "loss kernel of sequences", "response": "susceptibility of tokens"}


def coefficients(lines: Sequence[Mapping[str, Any]]) -> str:
    """Both packages' coefficients of each component."""
    return table(
        ["weights", "λ̂", "λ̂ + step bias · devinterp", "z", "on all data: ours · devinterp", "z", "devinterp as given"],
        (
            [
                line["component"],
                f"{line['llc']:.2f} ± {line['std_error']:.2f}",
                f"{line['uncorrected']:.2f} · {line['theirs']:.2f} ± {line['their_error']:.2f}",
                f"{line['z']:.1f}",
                f"{line['on_all']:.2f} · {line['theirs_on_all']:.2f} ± {line['their_error_on_all']:.2f}",
                f"{line['z_on_all']:.1f}",
                f"{line['theirs_as_given']:.2f}",
            ]
            for line in lines
        ),
    )


def matrices(lines: Sequence[Mapping[str, Any]]) -> str:
    """How both packages' covariances agree."""
    return table(
        ["what", "weights", "correlation", "reliability, ours · theirs", "rms z", "below 2", "slope"],
        (
            [
                MATRICES[line["what"]],
                line["component"],
                f"{line['correlation']:.3f}",
                f"{line['reliability']:.2f} · {line['other_reliability']:.2f}",
                f"{line['rms_z']:.2f}",
                f"{line['share']:.0%}",
                f"{line['slope']:.2f}",
            ]
            for line in lines
        ),
    )


def speed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Costs of a chain-step and of a whole job."""
    return table(
        [
            "components × checkpoints",
            "µs an iteration, ours · theirs · bare gradient",
            "theirs ÷ ours (wall)",
            "first call, s",
            "whole job, s, ours · theirs",
            "ratio",
        ],
        (
            [
                f"{row['components']} × {row['checkpoints']}",
                " · ".join(f"{row['cpu'][name]:.0f}" for name in ("ours_us", "theirs_us", "gradient_us")),
                f"{digits(row['cpu']['ratio'], 2)} ({digits(row['wall']['ratio'], 2)})",
                f"{row['cpu']['first_call']:.0f}",
                f"{row['our_job']:.0f} · {row['their_job']:.0f}",
                digits(row["job_ratio"], 2),
            ]
            for row in rows
        ),
    )


def tables(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """All of them, by name."""
    found = {}
    if "numbers" in parts:
        found |= {"components: numbers": coefficients(parts["numbers"]["coefficients"]), "components: matrices": matrices(parts["numbers"]["matrices"])}
    if "speed" in parts:
        found["components: speed"] = speed(parts["speed"]["rows"])
    return found
