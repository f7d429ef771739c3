"""Groups that scores are summed by: a column of the dataset, or several columns crossed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.runtime.errors import UserError
from pipeline.storage.tables import CHANNEL, own_column_names

MAX_GROUP_VALUES = 200
"""A column with more distinct values makes no groups, unless the user names it in `score.by`."""
MAX_VALUES_PER_UTTERANCE = 0.8
"""With more distinct values an utterance, a column identifies utterances and makes no groups, unless it is named."""


@dataclass(frozen=True)
class Group:
    """One or more columns. Each combination of their values is a group.

    Attributes:
        name: `room`, or `room+distractor` for crossed columns.
        columns: Names of the columns.
        limited: Whether to leave the group out if it says nothing: the column has only one value, more than
            `MAX_GROUP_VALUES`, about one utterance a value, or the same groups as a column before it.
    """

    name: str
    columns: tuple[str, ...]
    limited: bool = False


def choose_groups(
    by: Sequence[str] | None,
    own: Sequence[pa.Field],
    default: Sequence[str] | None = None,
    setting: str = "score.by",
) -> list[Group]:
    """Return the groups to sum by.

    Args:
        by: Names of columns; crossed columns are joined by `+`. `None` takes the columns of `default`.
        own: The dataset's own columns.
        default: Names of the columns that the dataset is usually scored by, as far as it has them. `None` takes each
            column except floating point columns.
        setting: The setting or option that gave `by`, for messages.

    Raises:
        UserError: The dataset has no such column.
    """
    if by is None:
        usual = [each.name for each in own if not pa.types.is_floating(each.type)] if default is None else default
        chosen = [each.name for each in own if each.name in {*usual, CHANNEL}]
        return [Group(_free(name), (name,), limited=True) for name in chosen]
    names = {each.name for each in own}
    by = ["overall" if name == _free("overall") and name not in names else name for name in by]
    check_groups(by, [each.name for each in own], setting)
    return [Group(_free(name), (name,) if name in names else tuple(name.split("+"))) for name in by]


def _free(name: str) -> str:
    """Return a name for a group that differs from `overall`."""
    return own_column_names([name], ["overall"])[name]


def check_groups(by: Sequence[str] | None, names: Sequence[str], setting: str = "score.by") -> None:
    """Check that a dataset has the columns of `score.by`, or of another setting.

    Raises:
        UserError: A column is missing, or is crossed with itself.
    """
    for asked in by or ():
        crossed = [asked] if asked in names else asked.split("+")
        for name in crossed:
            if name not in names:
                there = ", ".join(names) or "none"
                raise UserError(f"{setting}={asked}: the dataset has no column {name!r}; its own columns are {there}")
        if len(set(crossed)) != len(crossed):
            raise UserError(f"{setting}={asked}: crosses a column with itself; give each once")


def name_of(values: Sequence[str | None]) -> str | None:
    """Return a unique name for a group from the values of its columns: `+` and `null` are escaped."""
    if len(values) == 1:
        return values[0]
    escaped = (None if value is None else value.replace("\\", r"\\").replace("+", r"\+") for value in values)
    return "+".join("null" if value is None else r"\null" if value == "null" else value for value in escaped)


def in_order(names: Sequence[str | None]) -> list[int]:
    """Return the indices that sort the names: whole numbers by value, other names alphabetically, nulls last."""
    numbers = all(name is None or re.fullmatch(r"-?\d{1,18}", name) for name in names)

    def key(index: int) -> tuple[bool, int, str]:
        name = names[index]
        return (name is None, int(name) if numbers and name is not None else 0, name or "")

    return sorted(range(len(names)), key=key)
