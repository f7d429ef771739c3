"""Draw the curves of docs/simulated.md from the results of the simulated clusters.

Example:
    python scripts/bench/cluster.py
    python scripts/pictures/draw_cluster.py scripts/results/cluster-cpu.json docs/cluster.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

BLUE, ORANGE, GREY = "#31507a", "#e8a33d", "#8a8f98"


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    measured = json.loads(options.results.read_text())["measured"]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, ((ideal, lost), (limit, resume)) = plt.subplots(2, 2, figsize=(9.6, 6.2), layout="constrained")

    for name, color in (("no failures", BLUE), ("failures", ORANGE)):
        runs = [each for each in measured["whole"] if each["failures"] == name]
        above = [100 * (each["elapsed_s"] / each["ideal_s"] - 1) for each in runs]
        ideal.plot([each["gpus"] for each in runs], above, "o-", color=color, label=name)
    ideal.set(xscale="log", xlabel="GPUs", ylabel="% more than GPUs that never pause", title="Time of the whole corpus")
    ideal.set_xticks([each["gpus"] for each in runs], [str(each["gpus"]) for each in runs])
    ideal.set_ylim(bottom=0)
    ideal.legend(frameon=False)

    sizes = measured["sizes"]
    hours = [each["shard_hours"] for each in sizes]
    shares = [100 * each["lost_s"] / each["audio_s"] for each in sizes]
    above = [100 * (each["elapsed_s"] / each["ideal_s"] - 1) for each in sizes]
    lost.plot(hours, shares, "o-", color=ORANGE, label="audio that was lost")
    lost.plot(hours, above, "o-", color=BLUE, label="time above the ideal")
    lost.set(xscale="log", yscale="log", xlabel="shard.hours", ylabel="%", title="Larger shards, with failures")
    lost.set_xticks(hours, [f"{each:g}" for each in hours])
    lost.legend(frameon=False)

    for row, color in zip(measured["limit"], (GREY, BLUE, ORANGE), strict=False):
        numbers = [int(number) for number in row["idle"]]
        label = f"shard.hours={row['shard_hours']:g}"
        limit.plot(numbers, [100 * share for share in row["idle"].values()], "o-", color=color, label=label)
    limit.set(
        xscale="log", xlabel="GPUs", ylabel="% of the time", title="Idle, at the limit of one driver", ylim=(0, 100)
    )
    limit.set_xticks(numbers, [str(number) for number in numbers])
    limit.legend(frameon=False)

    shards = [each["shards"] for each in measured["resume"]]
    resume.plot(shards, [each["every_s"] for each in measured["resume"]], "o-", color=BLUE, label="all records, once")
    resume.plot(shards, [each["some_s"] for each in measured["resume"]], "o-", color=ORANGE, label="of 8 shards")
    resume.set(xscale="log", yscale="log", xlabel="shards", ylabel="CPU seconds", title="Reading commit records")
    resume.legend(frameon=False)
    for axes in (ideal, lost, limit, resume):
        axes.minorticks_off()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
