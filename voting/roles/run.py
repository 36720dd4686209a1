"""Runs the role that the environment variable ROLE names."""

import asyncio
import gc
import os
from importlib import import_module

import structlog
import uvloop

from voting.settings import ROLE_SETTINGS, SettingsError, load_role, load_settings
from voting.telemetry.logging import configure


def run() -> int:
    """Run the role until a signal stops it. Returns 0, or 1 if it failed.

    Raises SettingsError, also if a server can't be used, and OSError if a port is not free.
    """
    role = load_role(os.environ)
    settings = load_settings(ROLE_SETTINGS[role], os.environ)
    configure(settings, role)
    # Import this role's module only: vote needs no database driver, which takes memory.
    run_role = import_module(f"voting.roles.{role}").run
    tune_gc()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run_role(settings))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - any goes into the log, formatted as its other lines
            found = error
            while isinstance(found, ExceptionGroup):
                found = (found.subgroup(SettingsError) or found).exceptions[0]
            if isinstance(found, SettingsError):
                raise found from None
            structlog.get_logger(__name__).exception("the role has failed")
            return 1
    return 0


def tune_gc() -> None:
    """Make the garbage collector run less often, and skip the objects that exist by now."""
    # A full collection of all loaded modules held up votes for 40 ms. A worker's batches are no
    # garbage either: with the default threshold collections took 7 % of its time. Since the first
    # threshold is high, the older generations are collected after fewer rounds (2 instead of 10).
    gc.freeze()
    gc.set_threshold(50_000, 2, 2)
