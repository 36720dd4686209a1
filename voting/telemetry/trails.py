"""Following single ballots from vote to worker, where somebody looks: in lines at debug, in spans.

Where nobody looks there is no trail at all, and nothing more in the stream. Neither lines nor spans
hold a voter or a choice.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from voting.poll.ballot import Ballot, QueuedBallot, Version
from voting.queue.producer import CastError
from voting.queue.stream import Entry
from voting.settings import Settings
from voting.telemetry import logging as logs
from voting.telemetry import traceparent
from voting.web.exchange import Answer, Asked

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from voting.telemetry.spans import Spans

log = logs.get(__name__)


class _Trail:
    def __init__(self, spans: "Spans | None", *, debug: bool) -> None:
        self._spans = spans
        self._debug = debug

    @classmethod
    def of(cls, settings: Settings, spans: "Spans | None") -> Self | None:
        """Make a trail where somebody looks."""
        debug = settings.log_level == "debug"
        return cls(spans, debug=debug) if debug or spans is not None else None


class VoteTrail(_Trail):
    """What the vote role tells of requests to vote."""

    async def answer(
        self,
        handle: Callable[[Asked], Awaitable[Answer]],
        request: Asked,
    ) -> Answer:
        """Have the request handled, in a span that tells the outcome."""
        if self._spans is None:
            return await handle(request)
        scheme = request.scope["scheme"]
        with self._spans.request(
            request.method, request.scope["path"], scheme, request.headers
        ) as span:
            answer = await handle(request)
            span.set_attribute("http.response.status_code", answer.status)
            span.set_attribute("voting.recorded", answer.headers.get("Voting-Recorded", ""))
            if answer.status >= 500:  # noqa: PLR2004 - as the conventions say; below it is the client's
                self._spans.fail(span, str(answer.status))
        return answer

    async def cast(
        self,
        cast: Callable[[Ballot], Awaitable[Version]],
        ballot: Ballot,
        headers: Mapping[str, str],
    ) -> Version:
        """Cast the ballot, with a trace for the worker to go on with. Raises what `cast` raises."""
        with nullcontext() if self._spans is None else self._spans.cast() as span:
            trace = self._trace(span, headers)
            request = trace and traceparent.trace_id(trace)
            try:
                version = await cast(replace(ballot, trace=trace))
            except CastError as error:
                log.debug("ballot not acknowledged", request=request, reason=type(error).__name__)
                raise
            log.debug("ballot accepted", request=request, ballot=str(version))
            if span is not None:
                span.set_attribute("messaging.message.id", str(version))
        return version

    def _trace(self, span: "Span | None", headers: Mapping[str, str]) -> str | None:
        own = None
        if self._spans is not None and span is not None:
            own = self._spans.trace(span)
            if own is not None and traceparent.is_sampled(own):
                return own
        if not self._debug:
            return None
        return own or traceparent.parse(headers.get("traceparent")) or traceparent.make()


class WorkerTrail(_Trail):
    """What the worker tells of ballots that come with a trace, from their read to their commit."""

    def __init__(self, spans: "Spans | None", *, debug: bool) -> None:
        super().__init__(spans, debug=debug)
        self._open: dict[Version, Span] = {}

    def read(self, entries: Iterable[Entry]) -> None:
        """Begin with entries that were just read."""
        if self._spans is None:
            return
        for each in entries:
            if text := each.fields.get(b"trace"):
                trace = traceparent.parse(text.decode("ascii", "replace"))
                if trace is not None and traceparent.is_sampled(trace):
                    self._open[each.version] = self._spans.received(trace, str(each.version))

    def batch(self, ballots: Sequence[QueuedBallot]) -> AbstractContextManager[object]:
        """Count these in one statement: all of them, again in halves, or one alone."""
        followed = [self._open[each.version] for each in ballots if each.version in self._open]
        if self._spans is None or not followed:
            return nullcontext()
        return self._spans.batch(len(ballots), followed)

    def counted(self, ballots: Iterable[QueuedBallot]) -> None:
        """Tell of ballots that are committed."""
        for each in ballots:
            if each.trace is not None:
                request = traceparent.trace_id(each.trace)
                log.debug("ballot counted", request=request, ballot=str(each.version))
                if span := self._open.pop(each.version, None):
                    span.end()

    def dead_lettered(self, entry: Entry) -> None:
        """Tell of an entry that went to the dead letters."""
        self._fail(entry.version, "dead letter")

    def left(self, ids: Iterable[bytes]) -> None:
        """End with what stays pending, as the worker stops."""
        for each in ids:
            self._fail(Version.parse(each), "stopped")

    def _fail(self, version: Version, error: str) -> None:
        if self._spans is not None and (span := self._open.pop(version, None)):
            self._spans.fail(span, error)
            span.end()
