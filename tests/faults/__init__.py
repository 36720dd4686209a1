"""Real servers and roles under load, and faults in each of them."""

from collections.abc import Mapping
from inspect import iscoroutinefunction
from typing import Any


def faults_of(module: Mapping[str, Any]) -> tuple[Any, ...]:
    """Find the faults that a module has defined by now: its public coroutine functions."""
    return tuple(
        each
        for name, each in module.items()
        if getattr(each, "__module__", "") == module["__name__"]
        and iscoroutinefunction(each)
        and not name.startswith("_")
    )
