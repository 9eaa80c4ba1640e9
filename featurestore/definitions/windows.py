"""Windows as an author writes them: `sliding`, `tumbling`, `hopping`, `lifetime`."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.definitions.names import Duration, duration_text, duration_us
from featurestore.definitions.specs import WindowSpec
from featurestore.durations import format_duration
from featurestore.errors import DefinitionError


@dataclass(frozen=True)
class Window:
    """A window, and how the names of its features end: "" or like "_10m", as the author wrote it."""

    spec: WindowSpec
    suffix: str


def sliding(size: Duration, tile: Duration | None = None) -> Window:
    """The last `size` before the instant of reading, at every instant.

    tile: how exact the window's tail is, `size` / 60 rounded down to a usual span when not given.
    """
    size_us = duration_us(size, "sliding: size")
    tile_us = 0 if tile is None else duration_us(tile, "sliding: tile", positive=True)
    spec = WindowSpec(kind="sliding", size_us=size_us, tile_us=tile_us)
    return Window(spec, f"_{duration_text(size, size_us)}")


def tumbling(size: Duration, offset: Duration = "0s") -> Window:
    """Windows of `size` side by side, aligned to the epoch in UTC, shifted by `offset`."""
    size_us, offset_us = duration_us(size, "tumbling: size"), duration_us(offset, "tumbling: offset")
    spec = WindowSpec(kind="tumbling", size_us=size_us, offset_us=offset_us)
    return Window(spec, f"_tumbling_{duration_text(size, size_us)}{_offset_text(offset, offset_us)}")


def hopping(size: Duration, every: Duration, offset: Duration = "0s") -> Window:
    """Windows of `size` that begin `every` so often, aligned to the epoch in UTC, shifted by `offset`."""
    size_us, every_us = duration_us(size, "hopping: size"), duration_us(every, "hopping: every")
    offset_us = duration_us(offset, "hopping: offset")
    spec = WindowSpec(kind="hopping", size_us=size_us, every_us=every_us, offset_us=offset_us)
    text = f"_hopping_{duration_text(size, size_us)}_{duration_text(every, every_us)}"
    return Window(spec, text + _offset_text(offset, offset_us))


def lifetime() -> Window:
    """All events ever."""
    return Window(WindowSpec(kind="lifetime"), "")


def _offset_text(offset: Duration, offset_us: int) -> str:
    return f"_offset_{duration_text(offset, offset_us)}" if offset_us else ""


def check_window(window: WindowSpec, where: str) -> None:
    """Raise DefinitionError for a window that can't be computed. where: names the view and feature."""
    if window.kind == "lifetime":
        return
    size = format_duration(window.size_us)
    if window.size_us <= 0:
        raise DefinitionError(f"{where}: the window's size must be longer than 0", hint="write it like '10m'")
    if window.kind == "sliding" and window.tile_us > window.size_us:
        raise DefinitionError(
            f"{where}: the window of {size} is shorter than its tile of {format_duration(window.tile_us)}",
            hint="choose a smaller tile, or leave it out",
        )
    if window.kind == "hopping":
        every = format_duration(window.every_us)
        if window.every_us <= 0:
            raise DefinitionError(f"{where}: `every` must be longer than 0", hint="write it like '1m'")
        if window.every_us > window.size_us:
            raise DefinitionError(
                f"{where}: `every`, {every}, is longer than the window of {size}: it leaves events out",
                hint="make `every` at most `size`; with both equal it is a tumbling window",
            )
        if window.size_us % window.every_us:
            raise DefinitionError(
                f"{where}: the window of {size} is not a multiple of `every`, {every}",
                hint="choose `every` so that it divides `size`",
            )
