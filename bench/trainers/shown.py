"""What a contest found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(found: Mapping[str, Any]) -> str:
    """A result of `contest` as a table."""
    head = ["side", "ms a step", "tokens/s", "times ours", "peak MiB", "FVU"]
    rows = [head]
    for name, side in found["sides"].items():
        rows.append(
            [
                found["peers"].get(name, name),
                f"{1000 * side['seconds']:,.0f}",
                f"{side['tokens_per_second']:,.0f}",
                f"{side['ratio']:.1f}" if "ratio" in side else "",
                f"{side['peak_bytes'] / 2**20:,.0f}",
                f"{side['fvu']:.4f}",
            ]
        )
    wide = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [f"{found['name']}: {found['about']}; {found['steps']} steps, {found['threads']} threads"]
    for row in rows:
        cells = [
            row[0].ljust(wide[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells))
    for name, share in found["product_share"].items():
        lines.append(f"  the encoders' product alone takes {share:.0%} of a step ({name})")
    for name, side in found["sides"].items():
        if "ratio" in side:
            low, high = side["ratio_range"]
            lines.append(
                f"  {name}: {low:.1f} to {high:.1f} times by turn, {side['cpu_ratio']:.1f} by processor time"
            )
    return "\n".join(lines)
