"""The measurements: medians of repeats, compared with their limits."""

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

    def rows(self) -> Iterator[dict[str, Any]]:
        for name, samples in self._samples.items():
            limit = self._limits.get(name)
            yield {
                "name": name,
                "unit": self._units[name],
                "median": self.median(name),
                "samples": samples,
                "limit": limit,
                "ratio": limit and self.median(name) / self.median(limit),
            }

    def table(self) -> str:
        """Draw a Markdown table."""
        lines = ["| what | median | least to most | of the limit |", "|---|--:|--:|--:|"]
        for row in self.rows():
            samples, ratio = row["samples"], row["ratio"]
            span = f"{_figure(min(samples))} to {_figure(max(samples))}" if samples[1:] else ""
            of_limit = "" if ratio is None else f"{ratio:.2f}"
            figure = f"{_figure(row['median'])} {row['unit']}"
            lines.append(f"| {row['name']} | {figure} | {span} | {of_limit} |")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        content = {**machine(), "rows": list(self.rows())}
        path.write_text(json.dumps(content, indent=2) + "\n")


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
