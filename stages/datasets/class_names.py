"""Class names as annotators write them: which of them is likely another one, miswritten."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

NEAR = 0.8  # difflib's ratio from which names are near: person/persan is 0.83, RBC/WBC 0.67, car/cat 0.67
RARER = 20  # times that a class must occur for each time that a name near its own does


def nearest(name: str, others: Iterable[str]) -> str | None:
    """The one of `others` that a name may be miswritten for; None if there is none.

    Near are names of the same letters, whatever their case, order and spacing (Dog, dgo, dining_table), and those
    whose difflib ratio is at least NEAR. Names whose digits differ mean different things (class 1, class 2).
    """
    mine, digits = _letters(name), _digits(name)
    near = {_letters(other): other for other in others if other != name and _digits(other) == digits}
    if mine in near:
        return near[mine]
    turned = (other for letters, other in near.items() if sorted(letters) == sorted(mine))
    close = difflib.get_close_matches(mine, near, 1, NEAR)
    return next(turned, near[close[0]] if close else None)


def near_pairs(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each name that is likely another of the same data set, miswritten, and that other.

    counts: name -> how many objects have it. A name is told if it is near (see `nearest`) one that occurs at least
    RARER times as often, or if it differs only in case and spacing from one that occurs no more rarely.
    """
    for name, n in sorted(counts.items()):
        same = [o for o in counts if _letters(o) == _letters(name) and (counts[o], o) > (n, name)]
        other = nearest(name, same) or nearest(name, (o for o in counts if counts[o] >= RARER * n))
        if other is not None:
            yield name, other


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _digits(name: str) -> str:
    return "".join(c for c in name if c.isdigit())
