"""Which utterances of a manifest are meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

Where: TypeAlias = pd.Series | Callable[[pd.DataFrame], pd.Series] | Iterable[str] | str
"""A boolean Series, a function of the manifest that gives one, or ids."""

_KINDS: tuple[tuple[Callable[[Any], bool], str, tuple[type, ...]], ...] = (
    (pd.api.types.is_bool_dtype, "true or false", (bool, np.bool_)),
    (pd.api.types.is_integer_dtype, "whole numbers", (Integral,)),
    (pd.api.types.is_float_dtype, "numbers", (Real,)),
    (lambda dtype: True, "strings", (str,)),
)


def did_you_mean(word: str, there: Iterable[str]) -> str:
    """` (did you mean x?)`, or nothing where no candidate is close; of a corpus' ids in no time."""
    close = process.extractOne(word, there, scorer=fuzz.ratio, score_cutoff=60)
    return f" (did you mean {close[0]}?)" if close else ""


def chosen(
    manifest: pd.DataFrame, where: Where | None, columns: Mapping[str, Any], others: Iterable[list[str]]
) -> NDArray[np.bool_]:
    """Whether each row of a manifest is meant: `(rows,)`; every condition must hold.

    Args:
        manifest: The rows to choose from.
        where: See `Run.select`.
        columns: Column to a value, or to several of which any will do; null is a value.
        others: The ids of the run's other tables; a Series of theirs might be taken for one of the manifest.

    Raises:
        KeyError: A column or an id that is not there.
        TypeError: A value that is not of the column's type, or a `where` that is none of its kinds.
        ValueError: A boolean Series of other rows.
    """
    mask = np.ones(len(manifest), dtype=bool)
    for name, value in columns.items():
        if name not in manifest.columns:
            there = [str(column) for column in manifest.columns]
            raise KeyError(f"{name}: no such column{did_you_mean(name, there)}; there are {', '.join(there)}")
        mask &= _is_any_of(manifest, name, value)
    if where is not None:
        mask &= _where(manifest, where, others)
    return mask


def _is_any_of(manifest: pd.DataFrame, name: str, value: Any) -> NDArray[np.bool_]:
    column = manifest[name]
    single = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
    values = [value] if single else list(value)
    kind, types = next((kind, types) for is_kind, kind, types in _KINDS if is_kind(column.dtype))
    nulls = [each is None or each is pd.NA or (isinstance(each, float) and np.isnan(each)) for each in values]
    wanted = [each for each, null in zip(values, nulls, strict=True) if not null]
    for each in wanted:
        # `True == 1`, but whoever compares a number with it means something else.
        if not isinstance(each, types) or (isinstance(each, (bool, np.bool_)) and bool not in types):
            there = ", ".join(f"{other} ({dtype})" for other, dtype in manifest.dtypes.items())
            raise TypeError(f"{name}={each!r}: {name} holds {kind}, not {type(each).__name__}; there are {there}")
    found = column.isin(wanted)
    mask: NDArray[np.bool_] = (found | column.isna() if any(nulls) else found).to_numpy(dtype=bool)
    return mask


def _where(manifest: pd.DataFrame, where: Where, others: Iterable[list[str]]) -> NDArray[np.bool_]:
    given: Any = where(manifest) if callable(where) else where
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = [given]
    values = given if isinstance(given, pd.Series) else pd.Series(pd.array(list(given)))
    if len(values) and (_is_boolean(values) or (values is given and values.isna().all())):
        return _rows_of(manifest, values.astype("boolean"), () if callable(where) else others)
    there = set(manifest["id"])
    for id_ in values:
        if not isinstance(id_, str):
            raise TypeError(f"{id_!r}: give a boolean Series, a function of the manifest that returns one, or ids")
        if id_ not in there:
            raise KeyError(f"{id_}: no such id in the manifest{did_you_mean(id_, there)}")
    mask: NDArray[np.bool_] = manifest["id"].isin(values.tolist()).to_numpy(dtype=bool)
    return mask


def _is_boolean(series: pd.Series) -> bool:
    """Whether it holds true and false only, and nulls: `map` gives such a one as objects."""
    return bool(pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.infer_dtype(series, skipna=True) == "boolean")


def _rows_of(manifest: pd.DataFrame, series: pd.Series, others: Iterable[list[str]]) -> NDArray[np.bool_]:
    """A boolean Series as a mask of the manifest's rows; null counts as false, as where pandas filters by it."""
    if not series.index.is_(manifest.index):  # what is made of the manifest's columns keeps their very index
        series = _aligned(manifest, series, others)
    mask: NDArray[np.bool_] = series.fillna(False).to_numpy(dtype=bool)
    return mask


def _aligned(manifest: pd.DataFrame, series: pd.Series, others: Iterable[list[str]]) -> pd.Series:
    remedy = "give one over run.manifest, or one indexed by id: run.transcripts.set_index('id').wer > 0.5"
    if series.index.isin(manifest["id"]).all():
        if series.index.has_duplicates:
            raise ValueError(f"a boolean Series with an id twice; {remedy}")
        return series.reindex(manifest["id"], fill_value=False)
    if not series.index.equals(manifest.index):
        raise ValueError(f"a boolean Series of {len(series)} other rows than the manifest's {len(manifest)}; {remedy}")
    if any(len(ids) == len(series) and ids != manifest["id"].tolist() for ids in others):
        raise ValueError(f"a boolean Series that may be in the order of another table than the manifest; {remedy}")
    return series
