"""Pages that stand alone: one style, pictures inside, nothing fetched from anywhere."""

import base64
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.I)
_STYLE = re.compile(r"""@import|url\(\s*["']?(?:https?:)?//""", re.I)


class _Fetches(HTMLParser):
    """What a page would load from elsewhere; what its text says is no matter."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the addresses of an element."""
        self._tag = tag
        for name, value in attrs:
            is_address = name in ("src", "srcset", "href", "action", "data")
            if (is_address and _ELSEWHERE.match(value or "")) or (name == "style" and _STYLE.search(value or "")):
                self.found.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        """Leave the element."""
        self._tag = ""

    def handle_data(self, data: str) -> None:
        """Look at a style sheet."""
        if self._tag == "style" and _STYLE.search(data):
            self.found.append("style")


def embed(path: Path) -> str:
    """A PNG picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def number(value: float | int | str | None, digits: int = 2, signed: bool = False) -> str:
    """A figure for people: fixed digits with a true minus sign, an en dash for none, words unchanged."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def render(template: Path, **content: Any) -> str:
    """Fill a template that extends `base.html` of this folder.

    Args:
        template: the template file.
        content: what it shows; escaped, so that no text from a file can become markup.

    Returns:
        A complete HTML page.

    Raises:
        ValueError: when the page would load something over the network.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number}
    page = environment.get_template(template.name).render(**content)
    fetches = _Fetches()
    fetches.feed(page)
    if fetches.found:
        raise ValueError(
            f"The page would fetch something from the network: {', '.join(fetches.found)}. Embed it instead."
        )
    return page


def curve(series: dict[str, list[tuple[float, float]]], width: int = 330, height: int = 190) -> dict[str, Any]:
    """Geometry of a small line chart with linear axes, for the `chart` macro of `base.html`.

    Args:
        series: name -> (x, y) points, in any order.
        width: width of the drawing in CSS pixels.
        height: height of the drawing in CSS pixels.

    Returns:
        Paths and tick labels in drawing coordinates; `lines` is empty when there is nothing to draw.
    """
    left, right, top, bottom = 46, 10, 10, 24
    points = [p for line in series.values() for p in line]
    shape: dict[str, Any] = {"width": width, "height": height, "lines": [], "x_ticks": [], "y_ticks": []}
    if not points:
        return shape
    x_low, x_high = _span(p[0] for p in points)
    y_low, y_high = _span(p[1] for p in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        up = height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)
        return round(across, 1), round(up, 1)

    for name, line in series.items():
        placed = [place(x, y) for x, y in sorted(line)]
        if placed:
            shape["lines"].append({"name": name, "points": " ".join(f"{x},{y}" for x, y in placed), "last": placed[-1]})
    shape["x_ticks"] = [(place(x, y_low)[0], _tick(x)) for x in (x_low, (x_low + x_high) / 2, x_high)]
    shape["y_ticks"] = [(place(x_low, y)[1], _tick(y)) for y in (y_low, (y_low + y_high) / 2, y_high)]
    return shape | {"left": left, "right": width - right, "bottom": height - bottom}


def _span(values: Iterable[float]) -> tuple[float, float]:
    every = list(values)
    low, high = min(every), max(every)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tick(value: float) -> str:
    return number(
        value, 0 if abs(value) >= 100 or value == 0 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    )
