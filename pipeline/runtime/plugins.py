"""Modules that are chosen by name: those of a package of this project, and those that other packages add.

Another package adds a module by an entry point. The name of the entry point is the choice, its value the module.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from types import ModuleType

from pipeline.runtime.errors import UserError, did_you_mean, explain


@dataclass(frozen=True)
class Modules:
    """The modules that one key names.

    Attributes:
        key: The key, such as `dataset.connector`.
        package: The package of the shipped modules, which holds no other modules.
        has: The class that each module has beside its dataclass `Options`.
        group: The group of entry points of other packages; `None` where no other package can add a module.
    """

    key: str
    package: str
    has: str
    group: str | None = None

    def shipped(self) -> list[str]:
        """Names of the shipped modules, sorted. No module is imported: some of them need torch."""
        folders = importlib.import_module(self.package).__path__
        return sorted(module.name for module in pkgutil.iter_modules(folders) if not module.ispkg)

    def added(self) -> dict[str, EntryPoint]:
        """Entry points of other packages, by name.

        Raises:
            UserError: An entry point has the name of a shipped module, or two have the same name.
        """
        found: dict[str, EntryPoint] = {}
        if self.group is None:
            return found
        shipped = self.shipped()
        for point in entry_points_of(self.group, tuple(sys.path)):
            other = found.get(point.name)
            if point.name in shipped or (other is not None and other.value != point.value):
                taken = "is shipped" if other is None else f"is also added by {distribution(other)}"
                raise UserError(
                    f"{distribution(point)}: its entry point {point.name} in {self.group} has a name that {taken}; "
                    f"uninstall {distribution(point)}, or rename the entry point"
                )
            found[point.name] = point
        return found

    def load(self, name: str) -> ModuleType:
        """Import a module.

        Raises:
            UserError: There is no such module, or the module of another package cannot be imported or has no `Options`.
        """
        if name in self.shipped():
            return importlib.import_module(f"{self.package}.{name}")
        added = self.added()
        if name not in added:
            there = [*self.shipped(), *added]
            raise UserError(f"{self.key}={name}: not allowed{did_you_mean(name, there)}; there are {', '.join(there)}")
        point = added[name]
        try:
            module = point.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            raise UserError(
                f"{self.key}={name}: {point.value} of {distribution(point)} cannot be imported ({explain(error)}); "
                f"install that package again"
            ) from None
        missing = [needed for needed in ("Options", self.has) if not hasattr(module, needed)]
        if missing:
            raise UserError(
                f"{self.key}={name}: {point.value} of {distribution(point)} has no {' and no '.join(missing)}; "
                f"the entry point must name a module that has both"
            )
        return module  # type: ignore[no-any-return]


@cache
def entry_points_of(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group, by name. Reading those of all installed packages takes 25 ms.

    Args:
        group: The group of entry points.
        path: The folders in which Python looks for packages now. Where they change, the entry points are read again.
    """
    return tuple(sorted(entry_points(group=group), key=lambda point: point.name))


def distribution(point: EntryPoint) -> str:
    """The name of the installed package that has an entry point."""
    return point.dist.name if point.dist is not None else "an unknown package"


def package_of(module: str) -> str:
    """The name of the installed package that has a module; the name of the module's top folder if none has."""
    top = module.partition(".")[0]
    return packages_distributions().get(top, [top])[0]
