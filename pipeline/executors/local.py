"""The work is done in this process and its loaders, on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Options:
    """`executor.*` of the local executor: there is nothing to set."""
