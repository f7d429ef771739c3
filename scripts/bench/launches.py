"""What one batch launches on a CUDA device, and where the host would wait for it; this needs no CUDA device.

Example:
    python scripts/bench/launches.py

The batch goes from its copy to the device to the copies of its results, on tensors that have a shape and no values. An
operator counts as one launch, although some take several kernels and flash attention takes one; `kernels.py` counts
kernels on a device. A batch of 475 s is compared with one of a single utterance: launches for each utterance would cost
a fast device more time than their work.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import corpora
import torch
from common import Table, parser, prepared, publish, say
from exactness import exact
from fake_cuda import fake_cuda, run
from random_models import architecture, build

from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward

NAMES = ("wav2vec2_asr_base_960h", "wav2vec2_asr_large_lv60k_960h", "wavlm_base_plus")
UTTERANCES = 53
"""Utterances of 2 to 16 s in a batch of 475 s."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument(
        "--models", nargs="+", choices=sorted(MODELS), help="None: base, large and WavLM; base with --quick"
    )
    options = made.parse_args()
    options.models = options.models or NAMES[: 1 if options.quick else None]
    table = Table(
        "Launches of a batch on CUDA",
        [
            "model, precision",
            "1 utterance",
            f"{UTTERANCES} utterances",
            "copies to and from the host",
            "places where the host waits",
        ],
    )
    measured: dict[str, Any] = {}
    with prepared(options):
        for name in options.models:
            say(name)
            for precision in ("bf16", "fp32"):
                forward = exact(build(*architecture(MODELS[name]), seed=0), MODELS[name], precision)
                alone, batch = (launches(forward, count) for count in (1, UTTERANCES))
                measured[f"{name}, {precision}"] = {"alone": alone, "batch": batch}
                row = batch["launches"], batch["copies"], batch["waits"]
                table.add(f"{name}, {precision}", alone["launches"], *row)
    table.notes.append("In fp32, and for WavLM, attention counts as several operators, and is one kernel on a device.")
    publish("launches", __doc__, [table], options, measured)


def launches(forward: ExactForward, count: int) -> dict[str, Any]:
    """Count the launches of a batch of `count` utterances of 2 to 16 s, and the copies for which the host waits.

    An operator for which the host needs a value of the device raises an error.
    """
    with fake_cuda() as mode:
        run(mode, forward, torch.linspace(16 * corpora.RATE, 2 * corpora.RATE, count).long())
    calls: Counter[str] = mode.calls
    copies = mode.uploads + mode.downloads
    return {
        "launches": calls.total(),
        "copies": len(copies),
        "waits": copies.count(False),
        "operators": dict(calls.most_common()),
    }


if __name__ == "__main__":
    main()
