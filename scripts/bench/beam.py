"""Decoders on noisy digits: error rates and speed, greedy and beam search with a language model, beside their rivals.

Example:
    pip install --no-deps pyctcdecode pygtrie ctc-beam-decoder   # the rivals; without them their rows are left out
    python scripts/bench/beam.py

The recordings are those of the shipped corpus `digits`, with white noise added. The model is the shipped one, and every
decoder reads the same emissions. The language models are made by `pipeline.lm` from digit strings that are drawn at
random, so they know nothing of the recordings. Every decoder has its own default weights; nothing is tuned.
pyctcdecode declares that it needs NumPy 1, hence `--no-deps`.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from common import Table, parser, prepared, publish, ready, say
from numpy.typing import NDArray

from pipeline.decoding import beam, greedy
from pipeline.decoding.beam_search.making import quiet_stderr
from pipeline.lm.__main__ import main as make_language_model
from pipeline.records import BestPath, Labels, UtteranceEmission
from pipeline.results import open_run
from pipeline.run import main as run_pipeline
from pipeline.scoring.bootstrap import rate_intervals
from pipeline.scoring.counting import count_columns

DIGITS = Path(beam.__file__).parents[1] / "shipped" / "digits"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SNR_DB = (5.0, 0.0, -5.0)
LEXICON = 20_000
"""Words of the large lexicon, whose texts mean nothing."""

Decoder = Callable[[Sequence[UtteranceEmission]], list[str]]


def main() -> None:
    options = parser(__doc__).parse_args()
    with prepared(options) as work:
        references = noisy_corpus(ready(work / "noisy"), options.quick)
        emissions, labels, stride_s = emissions_of(work)
        heard = [emissions[name] for name in references.index]
        seconds = sum(len(each.path.labels) for each in heard) * stride_s
        decoders = made_decoders(work, labels, stride_s, options.quick)
        texts, rates = timed(decoders, heard, seconds, options)
        note = (
            f"{len(heard)} recordings, {seconds / 60:.1f} minutes: {references.source.nunique()} of the shipped corpus "
            f"at signal-to-noise ratios of {', '.join(f'{snr:g}' for snr in SNR_DB)} dB. Intervals: 95 %, bootstrap "
            "over the recordings without noise; differences are paired. The speed is that of decoding alone, in one "
            f"process, the median of {options.rounds} rounds. Rows with {LEXICON:,} words show the speed only: their "
            "language model is made of words that nobody says."
        )
        columns = ["decoder", "WER %", "95 %", "less than greedy by", "95 %", "x real time, decoding alone"]
        table = Table("Noisy digits", columns, notes=[note])
        counted = {name: errors_of(found, references) for name, found in texts.items()}
        base, words = counted["greedy"]
        for name, (errors, _) in counted.items():
            speed = statistics.median(rates[name])
            if name.endswith(" words"):
                table.add(name, None, None, None, None, speed)
                continue
            (interval,), (apart,) = rate_intervals(errors, words), rate_intervals(base - errors, words)
            less = (base - errors).sum() / words.sum()
            table.add(name, percent(errors.sum() / words.sum()), of(interval), percent(less), of(apart), speed)
        publish("beam", __doc__, [table], options, {"rates": rates})


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def of(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def noisy_corpus(folder: Path, quick: bool) -> pd.DataFrame:
    """Write the recordings with noise; their references and sources by the name of the file."""
    rng = np.random.default_rng(7)
    rows = {}
    for row in pd.read_csv(DIGITS / "transcripts.csv").head(4 if quick else None).itertuples():
        waveform, rate = soundfile.read(DIGITS / row.file_name)
        for snr in SNR_DB:
            noise = rng.normal(scale=np.sqrt(np.mean(waveform**2)) * 10 ** (-snr / 20), size=len(waveform))
            noisy = waveform + noise
            name = f"{row.file_name.removesuffix('.flac')}{snr:+g}.flac"
            soundfile.write(folder / name, noisy / max(1, np.abs(noisy).max()), rate)
            rows[name] = {"reference": row.transcript, "source": row.file_name}
    return pd.DataFrame.from_dict(rows, orient="index")


def emissions_of(work: Path) -> tuple[dict[str, UtteranceEmission], Labels, float]:
    """The emissions of the shipped model by the name of the file, its labels, and the seconds of a frame."""
    given = ["dataset=folder", f"dataset.root={work / 'noisy'}", "model=digits", f"run_dir={work / 'run'}"]
    assert run_pipeline([*given, "outputs=[emissions]", "stages=[manifest,infer]"]) == 0
    run = open_run(work / "run")
    found = {}
    for name, logits in run.emissions():
        shifted = logits - logits.max(axis=1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        found[name] = UtteranceEmission(BestPath(logits.argmax(axis=1), logprobs.max(axis=1)), logits, 0.0)
    return found, Labels(tuple(run.alphabet), 0, "|"), run.seconds_per_frame


def made_decoders(work: Path, labels: Labels, stride_s: float, quick: bool) -> dict[str, Decoder]:
    """The decoders by their names. Each returns texts."""
    rng = np.random.default_rng(8)
    strings = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(2000)]
    letters = np.asarray([*"etaoinshrdlu"])
    size = 500 if quick else LEXICON
    invented = ["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(size)]
    ranks = np.minimum(rng.zipf(1.2, (10 * size, 8)), size) - 1
    files = {"digits": strings, "invented": [" ".join(invented[rank] for rank in row) for row in ranks]}
    models = {}
    for name, order, more in (("digits", "3", []), ("digits", "6", ["--letters"]), ("invented", "3", [])):
        (work / f"{name}.txt").write_text("\n".join(files[name]))
        models[f"{name}{order}"] = str(work / f"{name}{order}.arpa")
        assert (
            make_language_model([str(work / f"{name}.txt"), "-o", models[f"{name}{order}"], "--order", order, *more])
            == 0
        )
    (work / "words.txt").write_text("\n".join(WORDS))
    hot = work / "hotwords.txt"
    hot.write_text("\n".join(WORDS))

    def ours(**given: str | float) -> Decoder:
        decoder = beam.Decoder(beam.Options(**given), labels, stride_s)  # type: ignore[arg-type]
        return lambda heard: decoder(heard).text.to_list()

    plain = greedy.Decoder(greedy.Options(), labels, stride_s)
    found: dict[str, Decoder] = {
        "greedy": lambda heard: plain(heard).text.to_list(),
        "beam, no language model": ours(),
        "beam, lexicon of the digits": ours(lexicon=str(work / "words.txt")),
        "beam, language model of digit strings": ours(lm=models["digits3"]),
        "beam, language model of letters": ours(lm=models["digits6"]),
        "beam, the digits as hotwords, no lexicon": ours(hotwords=str(hot), hotword_weight=5.0),
        f"beam, {size:,} words": ours(lm=models["invented3"]),
    }
    return found | rivals(labels, models, files, size)


def rivals(labels: Labels, models: dict[str, str], files: dict[str, list[str]], size: int) -> dict[str, Decoder]:
    """pyctcdecode and ctc-beam-decoder, where they are installed. Both write lower case here, as the language model."""
    alphabet = [" " if name == labels.delimiter else name.lower() for name in labels.names]
    found: dict[str, Decoder] = {}
    words = {name: sorted({word for line in lines for word in line.split()}) for name, lines in files.items()}

    def texts(decode: Callable[[NDArray[np.float32]], str]) -> Decoder:
        return lambda heard: [decode(each.logits) for each in heard if each.logits is not None]

    for name, model, of_words in (
        ("no language model", None, None),
        ("language model of digit strings", models["digits3"], words["digits"]),
        (f"{size:,} words", models["invented3"], words["invented"]),
    ):
        with quiet_stderr():
            if importlib.util.find_spec("pyctcdecode"):
                from pyctcdecode import build_ctcdecoder

                decoder = build_ctcdecoder(["", *alphabet[1:]], model, of_words)
                found[f"pyctcdecode, {name}"] = texts(decoder.decode)
            if importlib.util.find_spec("ctc_beam_decoder"):
                from ctc_beam_decoder import BeamSearchDecoder

                other = BeamSearchDecoder(["", *alphabet[1:]], kenlm_model_path=model, unigrams=of_words)
                found[f"ctc-beam-decoder, {name}"] = texts(other.decode)
    return found


def timed(
    decoders: dict[str, Decoder], heard: list[UtteranceEmission], seconds: float, options: Namespace
) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """The texts of each decoder, and in each round the seconds of audio that it decodes in a second."""
    texts: dict[str, list[str]] = {}
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(options.rounds):
        for name, decoder in decoders.items():
            started = time.process_time()
            texts[name] = decoder(heard)
            rates[name].append(seconds / (time.process_time() - started))
            say(f"{name}: {rates[name][-1]:.0f} x real time")
    return texts, rates


def errors_of(texts: list[str], references: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Word errors and reference words of each source, `(sources, 1)`: those of its noisy copies together."""
    columns, _ = count_columns(texts, references.reference.tolist())
    frame = pd.DataFrame({name: columns[name] for name in ("word_errors", "reference_words")}).astype(np.int64)
    sums = frame.groupby(references.source.to_numpy()).sum()
    return sums[["word_errors"]].to_numpy(), sums[["reference_words"]].to_numpy()


if __name__ == "__main__":
    main()
