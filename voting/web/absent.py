"""Packages that others load where they are there, though nobody here needs what that gives."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Have each import of a package fail meanwhile, as if it was not installed.

    Source: https://docs.python.org/3/reference/import.html#the-module-cache
    """
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    there = modules.get(name)
    modules[name] = None
    try:
        yield
    finally:
        if there is None:
            del modules[name]
        else:
            modules[name] = there
