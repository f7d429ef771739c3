"""Time of every operator of our forward, by module, with its operations and its share of the limit.

Example:
    python scripts/bench/profile_forward.py --device cpu --seconds 10 --model wav2vec2_asr_base_960h

Each operator is timed where it is called. On CUDA the script waits for the device after each operator, which adds
about ten microseconds per call. The sum is therefore a little larger than the time of an undisturbed forward, which is
timed too. Decoding (the best path, copied to the host) counts as one part.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import corpora
import flops
import torch
from common import Table, clocked, matrix_rate, parser, prepared, publish, say
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from weights import prepare_weights

from pipeline.models.architectures import architecture_of
from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward
from pipeline.models.sources import load_model, named
from pipeline.models.transfer import best_path


@dataclass
class Cost:
    """Of one operator in one module."""

    calls: int = 0
    seconds: float = 0.0
    flop: float = 0.0


class OperatorClock(TorchDispatchMode):
    """Times every operator below the module that calls it."""

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        super().__init__()
        self.costs: dict[tuple[str, str], Cost] = defaultdict(Cost)
        self.device = device
        self._inside = ["model"]
        for name, module in model.named_modules():
            path = re.sub(r"(?<=encoder\.)(.*layers)\.\d+", r"\1", name) or "model"
            module.register_forward_pre_hook(lambda *_, path=path: self._inside.append(path))
            module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._inside.pop()

    def enter(self, name: str) -> None:
        """What comes now stands outside the model."""
        self._inside = [name]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operators come whole; what they are made of is wanted.
        with self:
            made_of = func.decompose(*args, **kwargs)
        if made_of is not NotImplemented:
            return made_of
        if self.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = func(*args, **kwargs)
        if self.device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - started
        packet = func._overloadpacket
        cost = self.costs[self._inside[-1], packet.__name__]
        cost.calls += 1
        cost.seconds += took
        known = flop_registry.get(packet) or flop_registry.get(_OUT_OF_PLACE.get(packet.__name__))
        if known is not None:
            cost.flop += known(*args, **kwargs, out_val=result)
        elif "scaled_dot_product" in packet.__name__:  # the CPU's is not in the registry
            cost.flop += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        return result


_OUT_OF_PLACE = {"baddbmm_": torch.ops.aten.baddbmm, "addmm_": torch.ops.aten.addmm}


def part(path: str, operator: str) -> str:
    """What an operator is for, in the terms of the architecture."""
    if "attention" in operator or "attn" in operator:
        return "attention, products"
    if operator.startswith("gelu"):
        return "GELU, front end" if "front_end" in path else "GELU, encoder"
    if "layer_norm" in operator:
        return "norms"
    if "front_end" in path:
        product = operator in ("mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_", "convolution")
        return "front end, products" if product else "front end, the rest"
    if "decoding" in path:
        return "decoding"
    if "aux" in path:
        return "labels"
    if "position" in path or "pos_conv" in path:
        return "positional convolution"
    if "layers" not in path:
        return "projection" if "proj" in path else "between the layers"
    if re.search(r"\.(up|down|feed_forward)", path):
        return "feed-forward, linear"
    if re.search(r"\.(project|out|attention|[qkv]_proj|out_proj)", path):
        return "attention, linear"
    return "layers, the rest"


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", default="wav2vec2_asr_base_960h", help="a bundle")
    made.add_argument("--seconds", type=float, default=10.0, help="of each recording")
    made.add_argument("--batch", type=int, help="recordings at once; None: 1, on CUDA 40")
    options = made.parse_args()
    options.batch = options.batch or (40 if options.device == "cuda" else 1)
    if options.quick:
        options.seconds = 1.0
    precision = "bf16" if options.device == "cuda" else "fp32"
    with prepared(options):
        prepare_weights(options.model)
        facts = MODELS[options.model]
        forward = ExactForward(load_model(named(facts.name))[0], precision).to(options.device)
        samples = round(options.seconds * corpora.RATE)
        speech = corpora.speech()
        cuts = [torch.from_numpy(corpora.cut(speech, samples, 7919 * index)) for index in range(options.batch)]
        waveforms, lengths = torch.stack(cuts).to(options.device), torch.full((options.batch,), samples)

        def run() -> Any:
            return forward(waveforms, lengths, [])

        for _ in range(1 if options.quick else 3):
            run()
        say("undisturbed")
        whole = min(clocked(run, options.device) for _ in range(options.rounds))
        rate = matrix_rate(options.device, precision, options.quick)
        clock = OperatorClock(forward, options.device)
        turns = options.rounds
        with clock, torch.inference_mode():
            for _ in range(turns):
                clock.enter("model")
                output = run()
                clock.enter("decoding")
                if output.logits is not None:
                    for values in best_path(output.logits):
                        values.cpu()
        params = architecture_of(facts.name).params
        counted = sum(flops.forward_flop(params, samples).values()) * options.batch
        tables = report(
            clock, turns, whole, rate, counted, f"{facts.name.upper()}, {options.batch} x {options.seconds:g} s"
        )
        rows = [
            {"module": path, "operator": operator, "calls": cost.calls, "seconds": cost.seconds, "flop": cost.flop}
            for (path, operator), cost in clock.costs.items()
        ]
        publish("profile_forward", __doc__, tables, options, {"turns": turns, "operators": rows})


def report(clock: OperatorClock, turns: int, whole: float, rate: float, counted: float, title: str) -> list[Table]:
    parts: dict[str, Cost] = defaultdict(Cost)
    for (path, operator), cost in clock.costs.items():
        into = parts[part(path, operator)]
        into.calls += cost.calls
        into.seconds += cost.seconds
        into.flop += cost.flop
    total = sum(cost.seconds for cost in parts.values())
    columns = ["calls", "ms", "of the time", "GFLOP", "GFLOP/s", "share of limit"]

    def cells(cost: Cost) -> list[object]:
        speed = cost.flop / cost.seconds if cost.flop else None
        return [
            round(cost.calls / turns),
            1000 * cost.seconds / turns,
            f"{cost.seconds / total:.1%}",
            cost.flop / turns / 1e9 or None,
            speed and speed / 1e9,
            f"{speed / rate:.0%}" if speed else None,
        ]

    summary = Table(f"Parts: {title}", ["part", *columns])
    for name, cost in sorted(parts.items(), key=lambda item: -item[1].seconds):
        summary.add(name, *cells(cost))
    everything = Cost(sum(c.calls for c in parts.values()), total, sum(c.flop for c in parts.values()))
    summary.add("all", *cells(everything))
    summary.notes.append(
        f"Undisturbed forward: {1000 * whole:.1f} ms for {counted / 1e9:.1f} GFLOP, "
        f"{counted / whole / 1e9:,.0f} GFLOP/s, {counted / whole / rate:.0%} of the {rate / 1e9:,.0f} GFLOP/s of "
        f"matrix products. GFLOP of the rows are those of the products as they are called."
    )
    detail = Table(f"Operators: {title}", ["module and operator", *columns])
    dearest = sorted(clock.costs.items(), key=lambda item: -item[1].seconds)[:30]
    for (path, operator), cost in dearest:
        detail.add(f"{path}: {operator}", *cells(cost))
    return [summary, detail]


if __name__ == "__main__":
    main()
