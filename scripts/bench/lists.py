"""Read a made-up list as CSV and as JSON lines, by columns and row by row, and measure the time of the processor.

Example:
    python scripts/bench/lists.py --rows 200000

Each row says its id, path, duration, reference, speaker and room. First come the types of the columns, then the rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.datasets import manifest


def write_lists(folder: Path, rows: int) -> list[Path]:
    """Write the same list in both formats."""
    durations = np.round(np.random.default_rng(1).uniform(2, 70, rows), 3).tolist()
    csv_list, json_list = folder / "list.csv", folder / "list.jsonl"
    with open(csv_list, "w", newline="") as table, open(json_list, "w") as lines:
        writer = csv.writer(table)
        writer.writerow(["id", "path", "duration", "text", "speaker", "room"])
        for number, duration in enumerate(durations):
            speaker = f"speaker{number % 97:03d}"
            name = f"{speaker}/utterance-{number:08d}"
            text = f"{'seven ' * 15}, {number % 2000}"
            row = [name, f"/data/audio/{name}.flac", duration, text, speaker, f"rm{number % 4}"]
            writer.writerow(row)
            lines.write(json.dumps(dict(zip(("id", "path", "duration", "text", "speaker", "room"), row, strict=True))))
            lines.write("\n")
    return [csv_list, json_list]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        for path in write_lists(Path(folder), rows):
            for by_columns in (True, False):
                dataset = manifest.Dataset(manifest.Options(path=str(path), read_headers=False))
                if not by_columns:
                    dataset.__dict__["_columns"] = None
                started = time.process_time()
                dataset.columns()
                typed = time.process_time()
                for _ in dataset.blocks() if by_columns else dataset.utterances():
                    pass
                took = [1e6 * each / rows for each in (typed - started, time.process_time() - typed)]
                how = "by columns" if by_columns else "row by row"
                print(f"{path.name} {how}: {took[0]:.1f} + {took[1]:.1f} us a row")


if __name__ == "__main__":
    main()
