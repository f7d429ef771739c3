"""The page that `python -m pipeline.run --help` prints."""

from __future__ import annotations

from pipeline.overrides import GROUPS, group_choices

_PAGE = """\
usage: python -m pipeline.run [key=value ...]

Recordings in, Parquet tables out: transcripts with word times and scores, emissions, features per layer.
The same command again continues where it stopped.

examples
  python -m pipeline.run dataset=digits                              see everything work now, offline
  python -m pipeline.run dataset=voices dataset.root=/data/VOiCES_devkit
  python -m pipeline.run dataset=folder dataset.root=/data/calls run_dir=/data/out
  python -m pipeline.run dataset=manifest dataset.path=list.jsonl outputs=[transcripts]
  python -m pipeline.run dataset=folder dataset.root=/data/calls model=hubert_base features.layers=all

groups
{groups}

common overrides
  run_dir=DIR                where the tables go (default runs/<dataset>/<model>)
  outputs=[transcripts,emissions,features]
  features.layers=last       last, all, or a list such as [6,9,12]
  features.dtype=float16     float16 or float32; emissions.dtype likewise
  device=auto                auto, cpu, cuda, cuda:1
  precision=auto             auto (fp32 on CPU, bf16 on CUDA), fp32, bf16, fp16
  batch.max_seconds=null     padded seconds of audio in a batch; null: from the device
  shard.hours=1.0            hours of audio committed at once
  loader.workers=null        decoding processes; null: from the machine
  loader.timeout_s=120       longer than this to read a recording is a failure
  max_failures=null          stop beyond this many failures
  retry_failed=false         do the shards that hold failures again
  stages=[manifest,infer,score]
  model.sha256=null          refuse any other weights than these

exit codes
  0 everything committed, no failures    3 everything committed, some utterances in failures/
  2 the configuration, the input or a refused resume    1 an error stopped the run
  130, 143, 129 stopped by Ctrl-C, SIGTERM, SIGHUP; what was committed stays

python -m pipeline.status RUN_DIR says how far a run is."""


def page() -> str:
    """The page, with the choices that there are."""
    groups = "\n".join(f"  {group:<9}{', '.join(group_choices(group))}" for group in GROUPS)
    return _PAGE.format(groups=groups)
