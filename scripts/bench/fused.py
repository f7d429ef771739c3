"""One batch with and without the kernels that are off: speed, differences and largest kernels.

Example:
    python scripts/bench/fused.py --device cuda

Both engines have the same weights and take turns. On a CPU Triton's interpreter runs the kernels. Its speed means
nothing, and it computes only 0.2 s of audio.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import corpora
import numpy as np
from common import Table, clocked, parser, prepared, publish, say

WAYS = ("off", "on")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", help="a bundle, or digits; None: base, on a CPU digits")
    made.add_argument("--seconds", type=float, help="of audio in the batch; None: 475, on a CPU 0.2")
    options = made.parse_args()
    cuda = options.device == "cuda"
    options.seconds = options.seconds or (475.0 if cuda else 0.2)
    options.model = options.model or ("wav2vec2_asr_base_960h" if cuda else "digits")
    if not cuda:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from kernels import AHEAD, compute, kernels, ready_engine
    from weights import prepare_weights

    measured: dict[str, Any] = {"audio_s": options.seconds}
    with prepared(options):
        prepare_weights(options.model)
        engines = {}
        for way in WAYS:
            say(f"{way}: the first batches")
            engines[way], batch = ready_engine(options, fused=way == "on")
        measured["audio_s"] = sum(batch[2].tolist()) / corpora.RATE
        results = {way: engine.run(*batch)[0] for way, engine in engines.items()}
        tables = [differences(results, measured)]
        publish("fused", __doc__, tables, options, measured, complete=False)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(options.rounds):
            for way, engine in engines.items():
                took = clocked(lambda engine=engine: compute(engine, batch, AHEAD), options.device) / AHEAD
                times[way].append(took)
                say(f"round {turn + 1}, {way}: {1000 * took:.1f} ms a batch")
            measured["batch_s"] = {way: statistics.median(taken) for way, taken in times.items()}
        table = Table(f"A batch of {measured['audio_s']:.0f} s: {options.model}", ["kernels", "ms a batch", "least"])
        for way, taken in times.items():
            table.add(way, 1000 * statistics.median(taken), 1000 * min(taken))
        tables.append(table)
        publish("fused", __doc__, tables, options, measured, complete=False)
        for way in WAYS if cuda else ():
            found: dict[str, Any] = {}
            tables.append(kernels(engines[way], batch, options, found))
            tables[-1].title += f", {way}"
            measured[f"kernels {way}"] = found
        publish("fused", __doc__, tables, options, measured)


def differences(results: dict[str, list[Any]], measured: dict[str, Any]) -> Table:
    """How far the logits are apart, and how many labels change."""
    off, on = (np.concatenate([emission.logits for emission in results[way]]) for way in WAYS)
    largest, changed = float(np.abs(on - off).max()), float((on.argmax(1) != off.argmax(1)).mean())
    measured |= {"largest": largest, "changed": changed}
    table = Table("Differences between on and off", ["frames", "largest difference of a logit", "labels changed"])
    table.add(len(off), largest, f"{changed:.3%}")
    return table


if __name__ == "__main__":
    main()
