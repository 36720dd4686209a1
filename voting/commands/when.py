"""The values of `--at`: a time of day, a date with a time, or a duration from now on."""

import re
from datetime import UTC, datetime, time, timedelta

import click

# `fromisoformat` accepts more, such as 2030 for half past eight.
_TIME = re.compile(r"\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?")
_DATE = re.compile(rf"\d{{4}}-\d\d-\d\d[T ]{_TIME.pattern}")
_DURATION = re.compile(r"\+(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

Moment = timedelta | time | datetime


def moment(text: str) -> Moment:
    """Parse `20:15`, `2026-11-24T20:15`, `+10m`, `+1h30m` or `+90s`: a type of click's options.

    A date without an offset is in this machine's time zone. Raises click.BadParameter.
    """
    try:
        if duration := _DURATION.fullmatch(text):
            hours, minutes, seconds = (int(each or 0) for each in duration.groups())
            return timedelta(hours=hours, minutes=minutes, seconds=seconds)
        if _TIME.fullmatch(text):
            return time.fromisoformat(text)
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    raise click.BadParameter("must be like 20:15, 2026-11-24T20:15 or +10m")


def resolve(when: Moment, now: datetime, option: str = "--at") -> datetime:
    """Return the moment in UTC; of a time of day, its next occurrence after `now`.

    Times without an offset are in this machine's time zone. Raises click.BadParameter, which names
    the `option`, if the moment has passed.
    """
    try:
        if isinstance(when, timedelta):
            at = now + when
        elif isinstance(when, datetime):
            at = when
        else:
            at = datetime.combine(now.astimezone(), when)
            if at.astimezone() <= now:
                at += timedelta(days=1)  # a calendar day: it may have 23 hours
        at = at.astimezone(UTC)
    except OverflowError:
        raise click.BadParameter("is too far away", param_hint=option) from None
    if at <= now:
        raise click.BadParameter(f"{at:%Y-%m-%d %H:%M:%S} UTC has passed", param_hint=option)
    return at
