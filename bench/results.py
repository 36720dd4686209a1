"""The measurements: medians of repeats, beside their limits."""

import json
import platform
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil


class Results:
    """Samples by name, in the order of the first of each."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._units: dict[str, str] = {}
        self._limits: dict[str, str] = {}

    def add(self, name: str, value: float, unit: str, limit: str | None = None) -> None:
        """Add a sample; `limit` names the row that it is compared with."""
        self._samples[name].append(value)
        self._units[name] = unit
        if limit:
            self._limits[name] = limit

    def median(self, name: str) -> float:
        return median(self._samples[name])

    def ratio(self, name: str) -> float | None:
        """Return the share of its limit; None without a limit."""
        limit = self._limits.get(name)
        return None if limit is None else self.median(name) / self.median(limit)

    def table(self) -> str:
        """Draw a Markdown table."""
        return "\n".join(
            (
                "| what | median | least to most | of the limit |",
                "|---|--:|--:|--:|",
                *(f"| {' | '.join(cells)} |" for cells in self._rows()),
            )
        )

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        for name, samples in self._samples.items():
            ratio = self.ratio(name)
            span = f"{_figure(min(samples))} to {_figure(max(samples))}" if samples[1:] else ""
            of_limit = "" if ratio is None else f"{ratio:.2f}"
            yield name, f"{_figure(self.median(name))} {self._units[name]}", span, of_limit

    def write(self, path: Path) -> None:
        rows = [
            {
                "name": name,
                "unit": self._units[name],
                "median": self.median(name),
                "samples": samples,
                "limit": self._limits.get(name),
                "ratio": self.ratio(name),
            }
            for name, samples in self._samples.items()
        ]
        path.write_text(json.dumps({**machine(), "rows": rows}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Describe this machine."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _figure(value: float) -> str:
    """Format with three significant digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
