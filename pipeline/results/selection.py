"""Selects rows of a manifest for `Run.select`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

Where: TypeAlias = pd.Series | Callable[[pd.DataFrame], pd.Series] | Iterable[str] | str
"""A boolean Series, a function that takes the manifest and returns a boolean Series, or ids."""

_KINDS: tuple[tuple[Callable[[Any], bool], str, tuple[type, ...]], ...] = (
    (pd.api.types.is_bool_dtype, "true or false", (bool, np.bool_)),
    (pd.api.types.is_integer_dtype, "whole numbers", (Integral,)),
    (pd.api.types.is_float_dtype, "numbers", (Real,)),
    (lambda dtype: True, "strings", (str,)),
)


def did_you_mean(word: str, there: Iterable[str]) -> str:
    """Return ` (did you mean x?)` for the closest candidate; an empty string if none is close.

    `rapidfuzz` is fast enough for all ids of a corpus; `pipeline.runtime.errors.did_you_mean` is not.
    """
    close = process.extractOne(word, there, scorer=fuzz.ratio, score_cutoff=60)
    return f" (did you mean {close[0]}?)" if close else ""


def chosen(
    manifest: pd.DataFrame, where: Where | None, columns: Mapping[str, Any], others: Iterable[list[str]]
) -> NDArray[np.bool_]:
    """Return whether each row of a manifest is selected, `(rows,)`. All conditions must hold.

    Args:
        manifest: The rows to select from.
        where: See `Run.select`.
        columns: A value, or several allowed values, for each column; null is a value.
        others: Ids of the run's other tables. They show that a boolean Series was made from another table.

    Raises:
        KeyError: A column or an id does not exist.
        TypeError: A value has another type than its column, or `where` has a wrong type.
        ValueError: The rows of a boolean Series are not those of the manifest.
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
        # `True == 1` in Python, but a user who compares a number with True made a mistake.
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
    """Whether a Series holds only booleans and nulls. `Series.map` returns such a Series with dtype object."""
    return bool(pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.infer_dtype(series, skipna=True) == "boolean")


def _rows_of(manifest: pd.DataFrame, series: pd.Series, others: Iterable[list[str]]) -> NDArray[np.bool_]:
    """Return a boolean Series as a mask of the manifest's rows, `(rows,)`. Null counts as false, as in pandas."""
    if not series.index.is_(manifest.index):  # a Series made from the manifest's columns has the same index object
        series = _aligned(manifest, series, others)
    mask: NDArray[np.bool_] = series.fillna(False).to_numpy(dtype=bool)
    return mask


def _aligned(manifest: pd.DataFrame, series: pd.Series, others: Iterable[list[str]]) -> pd.Series:
    remedy = "give one over run.manifest, or one indexed by id: run.transcripts.set_index('id').wer > 0.5"
    if series.index.isin(manifest["id"]).all():
        if series.index.has_duplicates:
            raise ValueError(f"a boolean Series has an id twice; {remedy}")
        return series.reindex(manifest["id"], fill_value=False)
    if not series.index.equals(manifest.index):
        raise ValueError(
            f"a boolean Series of {len(series)} rows does not match the manifest's {len(manifest)} rows; {remedy}"
        )
    if any(len(ids) == len(series) and ids != manifest["id"].tolist() for ids in others):
        raise ValueError(f"a boolean Series may have the rows of another table than the manifest; {remedy}")
    return series
