"""Reads the results of a run as pandas tables and NumPy arrays. Does not import torch.

from pipeline.results import open_run

run = open_run("runs/voices/wav2vec2_asr_base_960h")
run.transcripts[["id", "text", "wer"]]
run.emission("Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042")  # (frames, labels)
near = run.select(room="rm1", distractor=["none", "babb"])  # the same run, restricted to these utterances
rows, matrix = near.pooled_table(layer=12)  # one row per utterance; (rows, dim) float32
"""

from __future__ import annotations

from pipeline.results.run import Run
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place
from pipeline.storage.run_directory import RunDirectory

__all__ = ["Run", "open_run"]


def open_run(run_dir: str | Place) -> Run:
    """Open a run directory. An unfinished run has the results that are committed.

    `open_run("RUN_DIR/transcripts-beam")` is the run with the transcripts and the scores of that decoding.

    Raises:
        FileNotFoundError: There is no run in that folder, or the run has no such decoding.
    """
    try:
        directory = RunDirectory.at(run_dir)
        directory.require_run()
    except UserError as error:
        raise FileNotFoundError(str(error)) from None
    return Run(directory)
