"""Draws docs/images/architecture.svg.

`make docs` writes it; `--check` reports whether it is current.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "architecture.svg"
WIDTH, HEIGHT = 760, 480
# Mid-tones and a filled background for each box, readable on a dark and on a light page.
STYLE = (
    "text{font:13px sans-serif;fill:#1f2328}.name{font-weight:bold;font-size:15px}"
    ".box{fill:#dbe7f5;stroke:#4a7ab5}.outside{fill:#eceff2;stroke:#7d8590}"
    "line{stroke:#7d8590;stroke-width:2;marker-end:url(#arrow)}.call{fill:#7d8590}"
)
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" '
    'orient="auto"><path d="M0 0L8 4L0 8z" fill="#7d8590"/></marker>'
)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A process, or something outside the mesh, with two lines of text below its name."""

    x: int
    y: int
    width: int
    name: str
    lines: tuple[str, ...]
    style: str = "box"


@dataclass(frozen=True, kw_only=True)
class Call:
    """An arrow from caller to server, with the call's name at (label_x, label_y)."""

    start: tuple[int, int]
    end: tuple[int, int]
    name: str
    label: tuple[int, int]


BOX_HEIGHT = 64
BOXES = (
    Box(
        x=250,
        y=10,
        width=260,
        name="clients",
        style="outside",
        lines=("any language, grpcurl,", "the mlxmesh command"),
    ),
    Box(
        x=250,
        y=124,
        width=260,
        name="gateway",
        lines=("limits, deadlines, validation, relay;", "collects telemetry and events"),
    ),
    Box(
        x=572,
        y=124,
        width=178,
        name="access",
        lines=("users, keys, quotas,", "usage in SQL"),
    ),
    Box(
        x=10,
        y=124,
        width=178,
        name="jobs",
        lines=("durable jobs, batches,", "files in SQL"),
    ),
    Box(
        x=572,
        y=10,
        width=178,
        name="tools",
        lines=("MCP servers, calls", "of their tools"),
    ),
    Box(
        x=10,
        y=10,
        width=178,
        name="worker",
        lines=("runs jobs: generation,", "other back ends"),
    ),
    Box(
        x=40,
        y=244,
        width=260,
        name="generation",
        lines=("templates, tokens, routing;", "runs generations, resumes streams"),
    ),
    Box(
        x=460,
        y=244,
        width=260,
        name="model",
        lines=("catalogue in SQL, desired replicas,", "placement"),
    ),
    Box(
        x=40,
        y=364,
        width=260,
        name="engine (one for each replica)",
        lines=("prefix cache, batches, MLX;", "computes tokens"),
    ),
    Box(
        x=460,
        y=364,
        width=260,
        name="runtime (one for each host)",
        lines=("starts, monitors, restarts", "and drains engines"),
    ),
)
CALLS = (
    Call(start=(380, 74), end=(380, 124), name="gRPC :50051", label=(390, 104)),
    Call(start=(510, 156), end=(572, 156), name="policies", label=(514, 148)),
    Call(start=(480, 124), end=(572, 62), name="ToolService", label=(522, 108)),
    Call(start=(250, 156), end=(188, 156), name="JobService", label=(190, 148)),
    Call(start=(99, 74), end=(99, 124), name="Work", label=(107, 104)),
    Call(start=(290, 188), end=(200, 244), name="GenerationService", label=(110, 220)),
    Call(start=(470, 188), end=(560, 244), name="ModelService", label=(535, 220)),
    Call(start=(300, 276), end=(460, 276), name="WatchModels", label=(340, 268)),
    Call(start=(170, 308), end=(170, 364), name="Execute", label=(180, 340)),
    Call(start=(590, 308), end=(590, 364), name="RuntimeService", label=(600, 340)),
    Call(start=(460, 396), end=(300, 396), name="starts, monitors", label=(330, 388)),
)
FOOTNOTE = "Every process registers in the registry, and serves health and reflection."


def drawing() -> str:
    """The whole image."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The processes of a mesh and their calls</title>",
        f"<style>{STYLE}</style><defs>{ARROW}</defs>",
        *(_call(call) for call in CALLS),
        *(_box(box) for box in BOXES),
        f'<text class="call" x="{WIDTH // 2}" y="462" text-anchor="middle">{FOOTNOTE}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(box: Box) -> str:
    middle = box.x + box.width // 2
    texts = [
        f'<text class="name" x="{middle}" y="{box.y + 20}" text-anchor="middle">{box.name}</text>'
    ]
    texts += (
        f'<text x="{middle}" y="{box.y + 38 + 17 * row}" text-anchor="middle">{line}</text>'
        for row, line in enumerate(box.lines)
    )
    frame = (
        f'<rect class="{box.style}" x="{box.x}" y="{box.y}" width="{box.width}" '
        f'height="{BOX_HEIGHT}" rx="6"/>'
    )
    return frame + "".join(texts)


def _call(call: Call) -> str:
    (x1, y1), (x2, y2), (x, y) = call.start, call.end, call.label
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
        f'<text class="call" x="{x}" y="{y}">{call.name}</text>'
    )


def main() -> int:
    """The exit code: 1 when `--check` finds an image that is not current."""
    if "--check" not in sys.argv[1:]:
        IMAGE.write_text(drawing())
        return 0
    if IMAGE.exists() and IMAGE.read_text() == drawing():
        return 0
    print(f"{IMAGE.name} is not current: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
