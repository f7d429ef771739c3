"""Metrics of the actors for Ray's dashboard and for Prometheus. Ray puts `ray_` before their names."""

from __future__ import annotations

from collections import Counter

from ray.util import metrics

from pipeline.executors.processes.messages import BatchDone, Committed, Message

NAMES = {
    "pipeline_audio_seconds_total": "Seconds of audio that were computed",
    "pipeline_utterances_total": "Utterances in committed shards",
    "pipeline_shards_total": "Committed shards",
    "pipeline_failures_total": "Utterances that failed, by the name of the error",
    "pipeline_device_seconds_total": "Seconds of the device, by state: busy or idle",
}
_FURTHER_TAG = {"pipeline_failures_total": "error", "pipeline_device_seconds_total": "state"}


class Metrics:
    """Counts what a worker says. Rates and shares, such as that of idle time, are for the reader to compute."""

    def __init__(self, run: str) -> None:
        """Create the metrics.

        Args:
            run: Name of the run, which is a tag of each metric.
        """
        self._run = run
        self._counters = {
            name: metrics.Counter(name, text, ("run", _FURTHER_TAG[name]) if name in _FURTHER_TAG else ("run",))
            for name, text in NAMES.items()
        }

    def count(self, message: Message) -> None:
        """Count a message of the worker."""
        match message:
            case BatchDone(batch, covered_s, failures):
                self._add("pipeline_audio_seconds_total", covered_s)
                self._add("pipeline_device_seconds_total", batch.forward_s, "busy")
                self._add("pipeline_device_seconds_total", batch.idle_s, "idle")
                for error, number in Counter(failure.error for failure in failures).items():
                    self._add("pipeline_failures_total", number, error)
            case Committed(record):
                self._add("pipeline_shards_total", 1)
                self._add("pipeline_utterances_total", record.utterances)

    def _add(self, name: str, value: float, tag: str = "") -> None:
        if value > 0:  # Ray refuses others
            self._counters[name].inc(value, {"run": self._run, **({_FURTHER_TAG[name]: tag} if tag else {})})
