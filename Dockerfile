# An image for machines with NVIDIA GPUs. docs/docker.md says how to run it.
#
#   docker build -t overnight-speech .
#
# The wheels of PyTorch contain the CUDA libraries, so the smallest CUDA image is enough. Ubuntu 24.04 has Python 3.12.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends "python3=3.12.*" "python3-venv=3.12.*" \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/speech \
    && useradd --create-home --uid 10001 speech \
    && install -d -o speech -g speech /runs /weights

ENV PATH=/opt/speech/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TORCH_HOME=/weights \
    HF_HOME=/weights/huggingface

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY pipeline pipeline
RUN pip install --no-cache-dir -c constraints.txt ".[formats,huggingface]"

USER 10001:10001
# Runs are written to the working directory. Mount the corpus read-only: -v /data/calls:/corpus:ro
WORKDIR /runs
VOLUME ["/runs", "/weights"]

# A run writes this file at each step, at most every 15 seconds. A run that writes nothing for half an hour hangs.
HEALTHCHECK --interval=5m --timeout=10s --start-period=10m --retries=2 \
    CMD ["python", "-c", "import os, time; assert time.time() - os.stat('/runs/run.prom').st_mtime < 1800"]

ENTRYPOINT ["python", "-m", "pipeline.run", "metrics.textfile=/runs/run.prom"]
CMD ["--help"]
