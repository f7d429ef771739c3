"""How the pictures of the guide are saved: with a palette, which takes a third of the bytes."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image


def save(picture: Image.Image | bytes, path: Path, colours: int = 256) -> None:
    """Write a picture, or the bytes of one, as a PNG with a palette, and say how large it is."""
    opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    image = opened.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")
