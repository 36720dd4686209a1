"""The parameter type of `--at`: a time of day, a date with a time, or a duration from now on."""

import re
from datetime import UTC, datetime, time, timedelta

import click

_DURATION = re.compile(r"\+(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


Moment = timedelta | time | datetime


class When(click.ParamType[Moment, str]):
    """Accepts `20:15`, `2026-11-24T20:15`, `+10m`, `+1h30m`, `+90s`. `resolve` makes it a datetime.

    Times without an offset are in this machine's time zone.
    """

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Moment:
        try:
            if duration := _DURATION.fullmatch(value):
                hours, minutes, seconds = (int(each or 0) for each in duration.groups())
                return timedelta(hours=hours, minutes=minutes, seconds=seconds)
            try:
                return time.fromisoformat(value)
            except ValueError:
                return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail("must be like 20:15, 2026-11-24T20:15 or +10m", param, ctx)


def resolve(when: Moment, now: datetime) -> datetime:
    """Return the moment in UTC; of a time of day, its next occurrence after `now`.

    Raises click.BadParameter if it has passed.
    """
    try:
        at = _after(when, now).astimezone(UTC)
    except OverflowError:
        raise click.BadParameter("is too far away", param_hint="--at") from None
    if at <= now:
        raise click.BadParameter(f"{at:%Y-%m-%d %H:%M:%S} UTC has passed", param_hint="--at")
    return at


def _after(when: Moment, now: datetime) -> datetime:
    if isinstance(when, timedelta):
        return now + when
    if isinstance(when, datetime):
        return when
    today = datetime.combine(now.astimezone(), when)
    if today.astimezone() > now:
        return today.astimezone()
    return (today + timedelta(days=1)).astimezone()  # a calendar day: it may have 23 hours
