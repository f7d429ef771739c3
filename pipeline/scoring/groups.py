"""What scores are summed by: columns of the dataset, each for itself or crossed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.runtime.errors import UserError
from pipeline.storage.tables import own_column_names

MAX_GROUP_VALUES = 200
"""A column with more distinct values than this tells utterances apart, not groups, unless it is asked for by name."""


@dataclass(frozen=True)
class Group:
    """Columns whose values, taken together, make the groups.

    Attributes:
        name: As asked for: `room`, or `room+distractor`.
        columns: The columns crossed.
        limited: Whether it is left out where it has one value only, or more than `MAX_GROUP_VALUES`.
    """

    name: str
    columns: tuple[str, ...]
    limited: bool = False


def choose_groups(by: Sequence[str] | None, own: Sequence[pa.Field]) -> list[Group]:
    """The groups asked for, or every own column that can be one.

    Args:
        by: Names of columns, crossed ones joined by `+`; `None`: every column but those of floating point numbers.
        own: The dataset's own columns.

    Raises:
        UserError: There is no such column.
    """
    if by is None:
        return [
            Group(_free(each.name), (each.name,), limited=True) for each in own if not pa.types.is_floating(each.type)
        ]
    names = {each.name for each in own}
    by = ["overall" if name == _free("overall") and name not in names else name for name in by]
    check_groups(by, [each.name for each in own])
    return [Group(_free(name), (name,) if name in names else tuple(name.split("+"))) for name in by]


def _free(name: str) -> str:
    """The name of a group that is not taken for the whole."""
    return own_column_names([name], ["overall"])[name]


def check_groups(by: Sequence[str] | None, names: Sequence[str]) -> None:
    """See early whether a dataset has the columns that scores are asked for by.

    Raises:
        UserError: It has not.
    """
    for asked in by or ():
        crossed = [asked] if asked in names else asked.split("+")
        for name in crossed:
            if name not in names:
                there = ", ".join(names) or "none"
                raise UserError(f"score.by={asked}: the dataset has no column {name!r}; its own columns are {there}")
        if len(set(crossed)) != len(crossed):
            raise UserError(f"score.by={asked}: crosses a column with itself; give each once")


def name_of(values: Sequence[str | None]) -> str | None:
    """The value of a group; of a crossed one no two are the same, whatever stands in them."""
    if len(values) == 1:
        return values[0]
    escaped = (None if value is None else value.replace("\\", r"\\").replace("+", r"\+") for value in values)
    return "+".join("null" if value is None else r"\null" if value == "null" else value for value in escaped)


def in_order(names: Sequence[str | None]) -> list[int]:
    """Positions of names as a person sorts them: whole numbers by size, nulls last."""
    numbers = all(name is None or re.fullmatch(r"-?\d{1,18}", name) for name in names)

    def key(index: int) -> tuple[bool, int, str]:
        name = names[index]
        return (name is None, int(name) if numbers and name is not None else 0, name or "")

    return sorted(range(len(names)), key=key)
