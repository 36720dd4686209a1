"""Runs the role that ROLE names."""

import asyncio
import gc
import os
from importlib import import_module

import structlog
import uvloop

from voting.settings import ROLE_SETTINGS, load_role, load_settings
from voting.telemetry.logging import configure


def run() -> int:
    """Return 1 where it has failed. Raises SettingsError, and OSError where a port can't be had."""
    role = load_role(os.environ)
    settings = load_settings(ROLE_SETTINGS[role], os.environ)
    configure(settings, role)
    # Only the role's own module: vote must run without a database driver's worth of memory.
    work = import_module(f"voting.roles.{role}").run
    collect_seldom()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(work(settings))
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it belongs into the log
            structlog.get_logger(__name__).exception("the role has failed")
            return 1
    return 0


def collect_seldom() -> None:
    """Have garbage looked for less often, and not among what is loaded by now."""
    # Looking through all of that held up votes for 40 ms. What a worker has in hand is no garbage
    # either: with the usual threshold it took 7 % of its time. Where there is some after all, older
    # objects are looked at sooner, for the first number is so high.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 2, 2)
