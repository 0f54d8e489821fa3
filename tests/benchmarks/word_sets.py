"""Draw two sets of long images: words, and the same words turned like the spines of books.

    python tests/benchmarks/word_sets.py FOLDER /usr/share/fonts/truetype/*/*-Regular.ttf

Each class is one surname, drawn once in each font, so the letters tell the classes apart and the
font does not. The images are cut to the word with a small margin. `FOLDER/words` and
`FOLDER/spines` are written; `fits.py` and `trained.py` read them.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

NAMES = """
Ash Fox Ray Lee Kay May Orr Poe Roy Dee Bell Cole Dunn Finch Grant Hayes Irwin Jones Keane Lloyd
Moore Noble Owens Price Quinn Reese Scott Tyler Usher Vance Wells Young Adams Baker Clark Davis
Evans Frost Green Hughes Ingram Jordan Keller Lawson Mercer Norman Oliver Palmer Ramsey Savage
Taylor Underhill Vaughan Walker Yardley Zimmerman Abernathy Blackwood Carrington Delacroix
Easterbrook Fairweather Goldsmith Hawthorne Iverson Jefferson Kensington Livingstone Montgomery
Nightingale Oppenheimer Pemberton Quackenbush Rosenthal Summerfield Thistlewood Unterberger
Vandermeer Weatherby Xanthopoulos Yellowstone Zuckerman Armstrong Birmingham Cunningham Donaldson
Ellsworth Fitzgerald Galsworthy Huntington Islington Johannson Kirkpatrick Lancaster Macdonald
Northumberland Osterhagen Partridge Richardson Stephenson Throckmorton Wainwright Wolstenholme
Christopherson Featherstonehaugh Cholmondeley Ashby
""".split()
SIZE, MARGIN = 48, 6  # pixels


def drawn(word: str, font: Path, rng: random.Random) -> Image.Image:
    """Return an image of a word, in a random dark colour on a random light one."""
    ink = tuple(rng.randrange(90) for _ in range(3))
    paper = tuple(rng.randrange(190, 256) for _ in range(3))
    face = ImageFont.truetype(str(font), SIZE)
    left, top, right, bottom = face.getbbox(word)
    size = int(right - left) + 2 * MARGIN, int(bottom - top) + 2 * MARGIN
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((MARGIN - left, MARGIN - top), word, font=face, fill=ink)
    return image


def main() -> None:
    """Draw both sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("fonts", type=Path, nargs="+", help="font files")
    options = parser.parse_args()
    rng = random.Random(0)
    for name in NAMES:
        for font in options.fonts:
            image = drawn(name, font, rng)
            for kind, turned in (("words", image), ("spines", image.rotate(90, expand=True))):
                place = options.folder / kind / name
                place.mkdir(parents=True, exist_ok=True)
                turned.save(place / f"{font.stem}.png")
    print(f"{len(NAMES)} words in {len(options.fonts)} fonts")


if __name__ == "__main__":
    main()
