"""One episode as an animated GIF: what the agent saw, and beside it what its routers did."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.report.figures import COLOURS, LAYERS
from workers.contract import InputError, Json

if TYPE_CHECKING:
    from PIL import Image

FRAMES = 1000
"""Steps that a replay shows at most, from the first."""
STEP_MS = 120
"""How long a step is shown, in milliseconds."""
EVERY = 200
"""Steps between two lines of progress."""
HEIGHT, WIDTH, ROW = 288, 220, 14
"""Of the picture and of what stands beside it, in pixels; of a line."""
INK, GROUND = (230, 230, 230), (24, 24, 28)


class Reel:
    """Keeps what was seen at each step, as it is played."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray[Any, Any]] = []

    def __call__(self, picture: np.ndarray[Any, Any] | None) -> None:
        """One more step: uint8 [H, W, 3]. Raises InputError where there is nothing to see."""
        if picture is None:
            raise InputError(
                "--replay: this environment shows no picture of itself; for one of gymnasium give "
                'the task kwargs = { render_mode = "rgb_array" }'
            )
        if len(self.pictures) < FRAMES:
            self.pictures.append(picture)


def watching(reel: Reel | None) -> Callable[[int, int, Callable[[], Any]], None]:
    """What is told of every step: fills the reel, and says on a terminal how far it is."""
    shown = sys.stderr.isatty()

    def watch(step: int, most: int, draw: Callable[[], Any]) -> None:
        if step == 0:
            print("growstage: playing one episode ...", file=sys.stderr)
        if reel is not None:
            reel(draw())
        if shown and step and step % EVERY == 0:
            print(f"growstage: step {step} of at most {most} ...", file=sys.stderr)

    return watch


def save(reel: Reel, played: Json, path: Path) -> None:
    """Write the replay; InputError where what was traced is no episode."""
    if not reel.pictures:
        raise InputError("--replay: a text is read at once and has no episode; leave it out")
    path.write_bytes(gif(reel.pictures, played))


def gif(pictures: Sequence[np.ndarray[Any, Any]], played: Json) -> bytes:
    """The episode's pictures with the gate weights of each step beside them.

    ``played``: what ``traces.trace`` tells. Layers and experts are cut where there is no room.
    """
    frames = [_frame(picture, step, played) for step, picture in enumerate(pictures)]
    file = io.BytesIO()
    frames[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=STEP_MS,
        loop=0,
        optimize=True,
    )
    return file.getvalue()


def _frame(picture: np.ndarray[Any, Any], step: int, played: Json) -> Image.Image:
    from PIL import Image, ImageDraw

    seen = Image.fromarray(picture)
    width = round(seen.width * HEIGHT / seen.height)
    frame = Image.new("RGB", (width + WIDTH, HEIGHT), GROUND)
    frame.paste(seen.resize((width, HEIGHT), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(frame)
    x, y = width + 8, 6
    floor = played["floors"][step]
    draw.text((x, y), f"{played['lane']}, {played['task']}"[:34], fill=INK)
    where = f", floor {floor}" if max(played["floors"]) else ""
    draw.text((x, y + ROW), f"step {step + 1} of {len(played['floors'])}{where}", fill=INK)
    y += 3 * ROW
    gates: Mapping[str, Sequence[Sequence[float]]] = played["gates"]
    for layer in list(gates)[:LAYERS]:
        weights = gates[layer][step]
        if y + 2 * ROW > HEIGHT:
            break
        draw.text((x, y), layer[-34:], fill=INK)
        y += ROW
        for expert, weight in enumerate(weights):
            if y + ROW > HEIGHT:
                break
            draw.text((x, y), str(expert), fill=INK)
            end = x + 18 + round((WIDTH - 34) * min(1.0, weight))
            draw.rectangle((x + 18, y + 2, end, y + ROW - 3), fill=COLOURS[expert % len(COLOURS)])
            y += ROW
        y += ROW // 2
    return frame
