"""A strict reader of Prometheus' text format: what it does not take, promtool does not take either."""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})\{{((?:{_LABEL},?)*)\}} (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_UNESCAPED = {"\\\\": "\\", "\\n": "\n", '\\"': '"'}

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def parse(text: str) -> Samples:
    """The value of each series by the name of the metric and its labels.

    Raises:
        AssertionError: A line is not of the format, a metric is described twice or not, or a series is there twice.
    """
    assert text.endswith("\n")
    found: Samples = {}
    kinds: dict[str, str] = {}
    described, current = set(), ""
    for line in text.splitlines():
        if helped := re.fullmatch(rf"# HELP ({_NAME}) \S.*", line):
            current = helped[1]
            assert current not in described, f"{current}: described twice"
            described.add(current)
        elif typed := re.fullmatch(rf"# TYPE ({_NAME}) (counter|gauge)", line):
            assert typed[1] == current
            kinds[current] = typed[2]
        else:
            sample = _SAMPLE.fullmatch(line)
            assert sample, f"not a sample: {line}"
            name = sample[1]
            assert name == current, f"{name}: not below its description"
            assert name in kinds
            labels = {key: re.sub(r"\\.", lambda match: _UNESCAPED[match[0]], value)
                      for key, value in re.findall(_LABEL, sample[2])}  # fmt: skip
            series = found.setdefault(name, {})
            assert frozenset(labels.items()) not in series, f"{line}: twice"
            series[frozenset(labels.items())] = float(sample[len(sample.groups())])
    for name, kind in kinds.items():
        assert name in found, f"{name}: described and not there"
        assert (kind == "counter") == name.endswith("_total"), name
    return found


def total(samples: Samples, name: str, **labels: str) -> float | None:
    """The sum of the series of a metric that have some labels; `None` if there is none."""
    values = [value for of, value in samples.get(name, {}).items() if {*labels.items()} <= of]
    return sum(values) if values else None
