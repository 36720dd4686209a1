"""`traceparent`: to which trace something belongs, in a line of text. Pure.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
import secrets

# A later version may go on after the flags; ours is 00, which does not.
_FORM = re.compile(
    r"(?!ff|00-.{53})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


def parse(text: str | None) -> str | None:
    """Return `00-<trace id>-<parent id>-<flags>`, or None for whatever is no traceparent."""
    match = _FORM.fullmatch(text or "")
    return match and f"00-{match[1]}-{match[2]}-{match[3]}"


def make() -> str:
    """Begin a trace that nobody records: who finds it later must not look for its parent."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def trace_id(traceparent: str) -> str:
    """Tell the 32 hexadecimal digits that all of a trace have in common."""
    return traceparent[3:35]


def is_sampled(traceparent: str) -> bool:
    """Whether whoever began the trace wants its spans to be kept."""
    return bool(int(traceparent[-2:], 16) & 1)
