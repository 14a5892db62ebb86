"""Print the branch coverage of each package of mjd, from the JSON report of coverage.py."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def by_package(report: Path) -> dict[str, Counter[str]]:
    """Counts of lines and branches by package; modules that are in none are `mjd`."""
    packages: dict[str, Counter[str]] = defaultdict(Counter)
    for path, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        inside = Path(path).parts[Path(path).parts.index("mjd") + 1 :]
        name = f"mjd.{inside[0]}" if len(inside) > 1 else "mjd"
        packages[name].update({count: file["summary"][count] for count in COUNTS})
    return packages


def share(covered: int, total: int) -> str:
    return f"{covered / total:8.1%}" if total else "       -"


if __name__ == "__main__":
    packages = by_package(Path(".coverage.json"))
    packages["total"] = sum(packages.values(), Counter())
    print(f"{'package':20}{'lines':>8}{'branches':>10}{'both':>8}")
    for name, n in packages.items():
        lines, branches = share(n[COUNTS[0]], n[COUNTS[1]]), share(n[COUNTS[2]], n[COUNTS[3]])
        both = share(n[COUNTS[0]] + n[COUNTS[2]], n[COUNTS[1]] + n[COUNTS[3]])
        print(f"{name:20}{lines}  {branches}{both}")
