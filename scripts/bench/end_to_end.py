"""From audio files to committed tables, beside the tutorial's loop, stock batches and transformers.

Example:
    python scripts/bench/end_to_end.py --device cpu

There are three mixes of real speech: recordings of 2 to 16 s as in LibriSpeech, commands of one second, and one long
recording. On a CPU the first mix runs once more while two other processes keep the cores busy. In every round each
contestant runs once, in the same order. Contestants that only search for the best batch size, or that are much slower,
run only in the first round. The tables show medians. Ratios are ratios of medians; those of whole commands count the
start and the end of both sides, the others neither.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import corpora
import flops
from common import Table, matrix_rate, parser, prepared, publish, say
from contestants import Rival, Timing, pipeline
from mixes import MIXES, Mix, describe, make_mixes, smaller
from weights import prepare_weights

from pipeline.models.architectures import architecture_of

BASE, LARGE = "wav2vec2_asr_base_960h", "wav2vec2_asr_large_960h"
TRANSCRIPTS = ("outputs=[transcripts,emissions]",)
ALL_LAYERS = ("outputs=[transcripts,emissions,features]", "features.layers=all")
BINARY = (*ALL_LAYERS, "features.layout=binary")
OURS, OURS_LAYERS, OURS_BINARY = "this project", "this project, all layers", "this project, all layers, binary"
LOOP, LOOP_LAYERS = "tutorial's loop", "tutorial's loop, all layers"
TARGETS = {
    "transcripts and emissions, against the tutorial's loop": (OURS, LOOP, 1.4),
    "with features of all layers, against the tutorial's loop": (OURS_LAYERS, LOOP_LAYERS, 2.7),
    "the same with features.layout=binary": (OURS_BINARY, LOOP_LAYERS, 2.7),
    "transcripts and emissions, against transformers at its best": (OURS, "transformers", 1.4),
}
NOTE = (
    "s: median, from the first recording asked for to the last table written. command s: with the start of Python, "
    "imports and weights. waits: share of s in which the model waited for the loader or the writer. closing s: from "
    "the last batch to the last commit. MiB: peak memory of the largest process. Everybody but transformers, which "
    "writes nothing, writes transcripts and emissions; with all layers also the features of every layer in float16, "
    "as lists, or in one row as bytes (features.layout=binary)."
)


@dataclass
class Contestant:
    """Somebody who does the work of a mix.

    Attributes:
        name: Row of the table.
        turn: Does it once.
        every_round: Or in the first round only.
        results: Of its turns; words where it did not get through.
    """

    name: str
    turn: Callable[[], Timing | str]
    every_round: bool = True
    results: list[Timing | str] = field(default_factory=list)

    @property
    def timings(self) -> list[Timing]:
        return [result for result in self.results if isinstance(result, Timing)]

    @property
    def speed(self) -> float:
        """Seconds of audio in a second; 0 where it did not get through."""
        return statistics.median(t.audio_s / t.seconds for t in self.timings) if self.timings else 0.0


def main() -> None:
    options = arguments()
    with prepared(options) as work:
        mixes = make_mixes(options, work)
        tables: list[Table] = []
        measured: dict[str, Any] = {}
        for model in options.models:
            prepare_weights(model)
            if model != BASE:
                mixes = {name: smaller(mix, work) for name, mix in mixes.items() if name == "librispeech"}
            with ExitStack() as stack:
                rivals = start_rivals(options, model, stack)
                for mix in mixes.values():
                    title, before = f"{model.upper()}, {describe(mix)}", tables
                    for contestants, limits in compete(options, model, mix, rivals, work):
                        tables = [*before, *report(title, model, mix, contestants, limits, options)]
                        turns = {
                            c.name: [t if isinstance(t, str) else asdict(t) for t in c.results] for c in contestants
                        }
                        measured[f"{model}, {mix.name}"] = {"matrix_flop_per_s": limits, "turns": turns}
                        publish("end_to_end", __doc__, tables, options, measured, complete=False)
        publish("end_to_end", __doc__, tables, options, measured)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", help="bundles; None: base, with --device cuda also large")
    made.add_argument("--recordings", type=int, help="of 2 to 16 s; None: 16, with --device cuda as --hours say")
    made.add_argument("--hours", type=float, default=4.0, help="of such recordings on CUDA")
    made.add_argument("--rival-hours", type=float, default=0.25, help="of them for the rivals, and for all layers")
    made.add_argument("--commands", type=int, help="short ones; None: 100, on CUDA 500")
    made.add_argument("--long-minutes", type=float, help="of the long recording; None: 3, on CUDA 60")
    made.add_argument("--mixes", nargs="+", choices=MIXES, help="None: all of them, or the first with --quick")
    made.add_argument("--batches", type=int, nargs="+", help="sizes for transformers; None: 1 4 8, on CUDA 8 32 64")
    options = made.parse_args()
    cuda = options.device == "cuda"
    options.models = options.models or ([BASE, LARGE] if cuda and not options.quick else [BASE])
    if options.recordings is None:
        options.recordings = 2 if options.quick else round(options.hours * 3600 / 9) if cuda else 16
    options.commands = options.commands or (3 if options.quick else 500 if cuda else 100)
    options.long_minutes = options.long_minutes or (0.1 if options.quick else 60 if cuda else 3)
    every = [mix for mix in MIXES if mix != "busy" or not cuda]
    options.mixes = options.mixes or (["librispeech"] if options.quick else every)
    options.batches = options.batches or ([1] if options.quick else [8, 32, 64] if cuda else [1, 4, 8])
    return options


def start_rivals(options: argparse.Namespace, model: str, stack: ExitStack) -> dict[str, Rival]:
    """Every rival with its model loaded; on CUDA also in bf16, which is what this project runs there."""
    kinds = ["torchaudio"]
    if importlib.util.find_spec("transformers"):
        kinds.append("transformers")
    else:
        say("transformers is not installed: its rows are left out (pip install -c constraints.txt -e '.[bench]')")
    rivals = {}
    for kind in kinds:
        # On CUDA also in bf16, as this project runs there; transformers in nothing else, being faster so.
        precisions = ["fp32"] if options.device == "cpu" else ["fp32", "bf16"] if kind == "torchaudio" else ["bf16"]
        for precision in precisions:
            say(f"starting {kind} in {precision}")
            asked = (kind, model, options.device, options.threads, precision)
            rival = rivals[f"{kind} {precision}"] = stack.enter_context(Rival(*asked))
            if options.device == "cpu" and not options.quick:  # one after the other: each start and end is timed alone
                rival.wait()
                with Rival(*asked) as ended:
                    ended.wait()
                rival.end_s = ended.end_s
    for name, rival in list(rivals.items()):
        try:
            rival.wait()
        except SystemExit as error:  # the others can still be compared
            say(f"{name} did not start: {error}")
            del rivals[name]
    return rivals


def compete(
    options: argparse.Namespace, model: str, mix: Mix, rivals: dict[str, Rival], work: Path
) -> Iterator[tuple[list[Contestant], list[float]]]:
    """Let everybody have their turns. After each turn: the contestants, and the matrix-product rates of the rounds."""
    out, name = work / "out", mix.name

    def ours(corpus: Path, overrides: tuple[str, ...]) -> Timing:
        return pipeline(corpus, out / "ours", model, options.device, options.threads, overrides)

    def theirs(rival: str, **asked: Any) -> Callable[[], Timing | str]:
        if rival not in rivals:
            return lambda: "did not start"
        return lambda: rivals[rival].run(mix.part, out / "theirs", mix.part_s, **asked)

    contestants = [
        Contestant(OURS, lambda: ours(mix.whole, TRANSCRIPTS)),
        Contestant(LOOP, theirs("torchaudio fp32", batch=1, features=False), name != "long"),
    ]
    if name == "long" and options.long_minutes > 10:
        contestants.pop()  # its attention would span it all
    if name == "librispeech":
        contestants += [
            Contestant(OURS_LAYERS, lambda: ours(mix.part, ALL_LAYERS)),
            *([] if options.quick else [Contestant(OURS_BINARY, lambda: ours(mix.part, BINARY))]),
            Contestant(LOOP_LAYERS, theirs("torchaudio fp32", batch=1, features=True)),
        ]
        size = 8 if options.device == "cpu" else 32
        for rival in [] if options.quick else [rival for rival in rivals if rival.startswith("torchaudio")]:
            stock = f"stock batches of {size}{precision_of(rival)}"
            contestants += [
                Contestant(stock, theirs(rival, batch=size, features=False), False),
                Contestant(f"{stock}, all layers", theirs(rival, batch=size, features=True), False),
            ]
    chunks = {"chunk_s": 60.0} if name == "long" else {}
    searched = []
    for rival in [rival for rival in rivals if rival.startswith("transformers")]:
        for size in options.batches:
            row = f"transformers{precision_of(rival)}, batches of {size}"
            searched.append(Contestant(row, theirs(rival, batch=size, **chunks), False))
    contestants += searched

    limits = []
    for turn in range(options.rounds):
        limits.append(matrix_rate(options.device, "fp32" if options.device == "cpu" else "bf16", options.quick))
        for contestant in contestants:
            if turn == 0 or contestant.every_round:
                with busy_processes(2 if name == "busy" else 0):
                    contestant.results.append(contestant.turn())
                done = contestant.results[-1]
                shown = f"{done.audio_s / done.seconds:.1f} x" if isinstance(done, Timing) else done
                say(f"{name}, round {turn + 1}: {contestant.name}: {shown}")
                yield contestants, limits
        if turn == 0 and any(contestant.speed for contestant in searched):
            max(searched, key=lambda contestant: contestant.speed).every_round = True


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let other processes compute without a pause while the block runs."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def precision_of(rival: str) -> str:
    return " in bf16" if rival.endswith("bf16") else ""


def report(
    title: str, model: str, mix: Mix, contestants: list[Contestant], limits: list[float], options: argparse.Namespace
) -> list[Table]:
    seconds = sum(mix.lengths) / corpora.RATE
    params = architecture_of(model).params
    flop_per_s = flops.total(params, mix.lengths) / seconds
    limit = statistics.median(limits) / flop_per_s
    columns = ["contestant", "audio s", "turns", "s", "least s", "x real time", "of limit"]
    columns += ["command s", "waits", "closing s", "MiB", "MB written"]
    table = Table(title, columns)
    for contestant in (contestant for contestant in contestants if contestant.results):
        timings = contestant.timings
        if not timings:
            table.add(contestant.name, "", len(contestant.results), contestant.results[0], *[""] * (len(columns) - 4))
            continue

        def middle(key: str, timings: list[Timing] = timings) -> float | None:
            values = [getattr(timing, key) for timing in timings]
            return None if None in values else statistics.median(values)

        waiting = middle("waiting")
        table.add(
            contestant.name,
            float(timings[0].audio_s),
            len(timings),
            middle("seconds"),
            min(timing.seconds for timing in timings),
            contestant.speed,
            f"{contestant.speed / limit:.0%}",
            middle("whole_s"),
            None if waiting is None else f"{waiting:.1%}",
            middle("closing_s"),
            middle("peak_mib"),
            (timings[0].bytes or 0) / 1e6 or None,
        )
    table.notes.append(NOTE)
    table.notes.append(
        f"Limit: {statistics.median(limits) / 1e9:,.0f} GFLOP/s of matrix products in this run, "
        f"{flop_per_s / 1e9:.1f} GFLOP per second of this audio: {limit:,.1f} x real time."
    )
    return [table, ratios(title, mix, contestants, options)]


def ratios(title: str, mix: Mix, contestants: list[Contestant], options: argparse.Namespace) -> Table:
    table = Table(f"Ratios: {title}", ["what", "measured", "wanted"])
    for what, (ours, theirs, wanted) in TARGETS.items():
        mine = max((c.speed for c in contestants if c.name == ours), default=0.0)
        best = max(
            (
                c.speed
                for c in contestants
                if c.name == theirs or (c.name.startswith(theirs) and theirs == "transformers")
            ),
            default=0.0,
        )
        if mine and best:
            wanted = 2.0 if mix.name == "busy" else wanted
            table.add(what, f"{mine / best:.2f}", f"{wanted:.2f}" if options.device == "cpu" else "")
    commands = {c.name: statistics.median(t.whole_s / t.audio_s for t in c.timings) for c in contestants if c.timings}
    for what, ours, theirs in (("", OURS, LOOP), (" with all layers", OURS_LAYERS, LOOP_LAYERS)):
        if {ours, theirs} <= {*commands}:
            ratio = commands[theirs] / commands[ours]
            table.add(f"whole commands{what}, start and end counted, against the tutorial's loop", f"{ratio:.2f}", "")
    waits = [t.waiting for c in contestants[:1] for t in c.timings if t.waiting is not None]
    table.add("share of the time in which the model waits", f"{statistics.median(waits):.1%}", "under 3 %")
    return table


if __name__ == "__main__":
    main()
