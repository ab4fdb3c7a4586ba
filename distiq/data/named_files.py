"""Files that other files name: lists of stems, and images by the names that annotation tools give them."""

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.device.run import nfc
from distiq.errors import UserError

WIDE = (b"\xff\xfe", b"\xfe\xff")  # the marks of UTF-16, which editors of Windows write


def plain_text(path: Path) -> str:
    """A text file in UTF-8, with a mark before its first byte or without one, or in UTF-16 with one.

    Raises:
        UserError: it cannot be read, or is written otherwise.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content[:2] in WIDE else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def plain_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without what is white at their ends; see `plain_text`."""
    return [line.strip() for line in plain_text(path).splitlines() if line.strip()]


def listed_stems(path: Path, folder: Path, ending: str) -> list[str]:
    """The names in a list of ImageSets: one a line, which may hold spaces; a class's lists have a 1, 0 or -1 behind.

    Args:
        folder, ending: where the files lie that are named so, which tells the two apart.
    """
    lines = plain_lines(path)
    return [line if (folder / f"{line}{ending}").is_file() else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]


def image_of_stem(folder: Path, stem: str) -> Path | None:
    """The image of a folder that is called so, whatever its ending; None where there is none."""
    files = (folder / f"{stem}{ending}" for ending in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)))
    return next((file for file in files if file.is_file()), None)


class NamedImages:
    """The images of some folders, by the names that annotations give them.

    A name may have slashes of either kind, be written in another case or with other forms of the same letters, be
    quoted as in an address, or stand behind a path of another machine. Of several images that a name may mean, the one
    is taken that shares most of its path, and none where two share as much.

    Args:
        places: where names are relative to, in the order in which they are tried.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = [place for place in dict.fromkeys(places) if place.is_dir()]
        self._by_name: dict[Path, dict[str, list[Path]]] = {}

    def find(self, name: str) -> Path | None:
        """The image of that name; None where there is none, or more than one."""
        given = name.replace("\\", "/")
        if exact := next(
            (place / one for place in self.places for one in (name, given) if (place / one).is_file()), None
        ):
            return exact
        unquoted = urllib.parse.unquote(given)
        for place in self.places:
            if found := self._alike(place, unquoted):
                return found
        return None

    def of_stem(self, stem: str) -> Path | None:
        """The image that is called so, whatever its ending and wherever below the places; None as for `find`."""
        for place in self.places:
            if len(alike := self._index(place).get(_folded(stem), [])) == 1:
                return alike[0]
        return None

    def _alike(self, place: Path, name: str) -> Path | None:
        wanted = _folded(name).split("/")
        alike = self._index(place).get(wanted[-1], [])
        shared = [_shared(_folded(file.relative_to(place).as_posix()).split("/"), wanted) for file in alike]
        best = [file for file, count in zip(alike, shared, strict=True) if count == max(shared)]
        return best[0] if len(best) == 1 else None

    def _index(self, place: Path) -> dict[str, list[Path]]:
        """The images below a place by their names, and by these without their endings."""
        if place not in self._by_name:
            index: dict[str, list[Path]] = {}
            for file in sorted(file for file in walk(place) if file.suffix.lower() in IMAGE_SUFFIXES):
                for name in (file.name, file.stem):
                    index.setdefault(_folded(name), []).append(file)
            self._by_name[place] = index
        return self._by_name[place]


def _folded(name: str) -> str:
    return nfc(str(PurePosixPath(name))).casefold()


def _shared(path: Sequence[str], wanted: Sequence[str]) -> int:
    """How many parts two paths have in common, from their ends on."""
    count = 0
    for one, other in zip(reversed(path), reversed(wanted), strict=False):
        if one != other:
            break
        count += 1
    return count
