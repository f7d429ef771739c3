"""Describes an audit in words: one line per problem, and a summary of what is sound and what a rerun would do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.audit import Audit
from pipeline.verify.findings import Problem

if TYPE_CHECKING:
    from pipeline.verify.comparison import Comparison
    from pipeline.verify.exactness import Exactness


def findings(found: Audit, directory: RunDirectory, retracts: bool) -> Iterator[str]:
    """Yield a line for each problem and each note.

    Args:
        found: The audit.
        directory: The run.
        retracts: Whether the commit records of damaged shards are about to be removed.
    """
    for problem in found.problems:
        yield f"{problem.path}: {problem.what}; {_remedy(problem, found, directory, retracts)}"
    for note in found.notes:
        yield f"note: {note}"
    if found.locked:
        yield "note: a process is writing to this run; its latest commits may be missing here"


def _remedy(problem: Problem, found: Audit, directory: RunDirectory, retracts: bool) -> str:
    if problem.shard is None:
        return problem.remedy
    again = f"a rerun computes shard {problem.shard} again"
    if problem.shard not in found.taken_as_done or (retracts and _retractable(found)):
        return again
    record = shlex.quote(str(directory.locate(directory.commit_name(problem.shard, problem.supplement))))
    return f"a rerun skips shard {problem.shard} as long as its commit record exists: rm {record}, then {again}"


def summary(found: Audit, directory: RunDirectory, retracted: bool) -> str:
    """Return one line about shards, utterances and what a rerun would do. The arguments are those of `findings`."""
    sound, damaged, pending = found.of("sound"), found.of("damaged"), found.of("pending")
    todo = sorted([*damaged, *pending])
    total = f"{found.utterances([*sound, *todo])}"
    if found.work.manifest is None and any(each.committed is None for each in found.shards):
        total += " or more"  # the size of a shard is unknown without manifest and record
    verdict = f"not sound, {counted(len(found.problems), 'problem')}" if found.problems else "sound"
    said = [
        f"{verdict}: {counted(len(sound), 'shard')} sound, {len(damaged)} damaged, {len(pending)} pending",
        f"{found.utterances(sound)} of {total} utterances sound",
    ]
    if todo:
        does = f"a rerun computes {_shards(todo)}{' again' if damaged and not pending else ''}"
        said.append(f"{does}: {counted(found.utterances(todo), 'utterance')}, {format_hours(found.audio_s(todo))}")
    else:
        said.append("a rerun computes no shard again")
    if found.taken_as_done and not (retracted and _retractable(found)):
        command = f"python -m pipeline.verify {shlex.quote(str(directory.root))} --retract"
        said.append(f"first remove the commit record of {_shards([*found.taken_as_done])}: {command}")
    if any(problem.path in ("manifest.parquet", "run.json") for problem in found.problems):
        said.append("but first repair the manifest and run.json")
    return "; ".join(said)


def _retractable(found: Audit) -> bool:
    """Whether manifest and `run.json` are sound, so that a damaged record can be told from a sound one."""
    return found.work.manifest is not None and found.work.recorded is not None


def exactness_lines(exactness: Exactness) -> Iterator[str]:
    """Yield lines about the utterances that were run again."""
    for each in exactness.utterances:
        if each.failure is not None:
            yield f"note: {each.id!r} could not be run again ({each.failure})"
        elif exactness.judged and not each.same:
            yield f"{each.id!r}: not the same alone: {'; '.join([*_apart([each]), *each.wrong])}"
    compared = exactness.compared
    yield (
        f"exactness: {counted(len(compared), 'utterance')} alone on {exactness.device} in {exactness.precision}: "
        f"{'; '.join(_apart(compared)) or 'texts compared'}; {_verdict(exactness)}"
    )
    yield from exactness.notes


def _verdict(exactness: Exactness) -> str:
    if not exactness.judged:
        return f"differences in {exactness.precision} are reported, not judged"
    return "the same" if exactness.same else f"{sum(not each.same for each in exactness.compared)} not the same"


def _apart(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the largest differences and the number of changed labels, in words."""
    said = []
    for kind in ("emissions", "features"):
        found = [value for each in comparisons for name, value in each.largest.items() if name.startswith(kind)]
        if found:
            said.append(f"largest difference of {kind} {max(found):.1e}")
    labels = sum(each.labels for each in comparisons)
    if labels:
        said.append(f"{sum(each.changed for each in comparisons)} of {labels} labels changed")
    return said


def _shards(shards: Sequence[int]) -> str:
    """Return shard numbers in words: `shards 2, 4 to 7 and 9`."""
    runs = [[shard for _, shard in run] for _, run in groupby(enumerate(shards), lambda item: item[1] - item[0])]
    said = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"shard{'s' if len(shards) > 1 else ''} {listed}"
