"""What a Run tells the cache of itself: about.json on the shelves that it fills, and that it lives."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..cache import inputs as cache_inputs
from ..cache import layout, use
from ..cache.inputs import Inputs
from ..cache.store import Shelf, Store
from ..errors import UserError
from ..stages.nets import ranks
from .keys import Keys

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("rcnn.run")


class Shelves:
    """The shelves that a Run uses. As long as it is not released, `rcnn cache prune` spares them.

    device: that of the Run, for about.json.
    """

    def __init__(self, store: Store, keys: Keys, device: str):
        self.store = store
        self.keys = keys
        self.device = device
        self._lease: BaseFileLock | None = None

    def use(self, name: str, key: str | None = None, classes: Sequence[str] = ()) -> Shelf:
        """The shelf of a step, used from now on. Its about.json is written if it is lost or damaged, where it may be.

        key: of what a step learns that has not learned it yet; default: the key under which the cache keeps it.
        classes: of the data that it learned from.
        """
        shelf = self.store.shelf(name, key or self.keys.key(name))
        self._lease = self._lease or use.lease(self.store.root)
        use.stamp(shelf.path)
        if os.access(shelf.path, os.W_OK) and not shelf.described():
            self.describe(name, key, classes)
        return shelf

    def use_learned(self, name: str, key: str, classes: Sequence[str], inputs: Inputs) -> None:
        """The shelf of what a step learned is used: what it was learned from is noted, where a cache lost it."""
        shelf = self.use(name, key, classes)
        if os.access(shelf.path, os.W_OK) and not (shelf.path / layout.INPUTS).exists():
            try:
                cache_inputs.write(shelf.path, inputs)
            except UserError as error:  # a help, no result
                log.warning("%s", error)

    def begin(self, name: str, key: str, classes: Sequence[str], inputs: Inputs) -> None:
        """Make the shelf of what a step is about to learn, and note there what it is learned from."""
        shelf = self.use(name, key, classes)
        self.describe(name, key, classes)
        cache_inputs.write(shelf.path, inputs)

    def describe(self, name: str, key: str | None = None, classes: Sequence[str] = ()) -> None:
        """Write about.json, or add this environment to those that filled the shelf. UserError if it cannot be."""
        key = key or self.keys.key(name)
        shelf = self.store.shelf(name, key)
        shelf.describe(about(self.keys, name, key, classes), environment(self.device))
        use.stamp(shelf.path)

    def release(self) -> None:
        """Use no shelf any more."""
        if self._lease is not None:
            self._lease.release()
        self._lease = None


def about(keys: Keys, name: str, key: str, classes: Sequence[str]) -> dict[str, Any]:
    """What about.json says of a step's shelf, but for who filled it."""
    return {
        "step": name,
        "key": key,
        "recipe": keys.pipeline.name,
        "method_key": keys.method_key(name),
        **keys.method(name),
        "classes": list(classes),
        "unkept": unkept(keys, name),
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def unkept(keys: Keys, name: str) -> dict[str, Any]:
    """By key, the methods on the way to this step that have no shelf to tell of them."""
    pipeline = keys.pipeline
    stage, authors = pipeline.stage(name), pipeline.authors()
    fields = () if pipeline.step(name).apart else (*stage.needs, *stage.learns)
    found: dict[str, Any] = {}
    for author in sorted({authors[field] for field in fields if field in authors}):
        if not pipeline.step(author).keep and not pipeline.stage(author).learned:
            found[keys.key(author)] = {"step": author, **keys.method(author)}
            found.update(unkept(keys, author))
    return found


def environment(device: str) -> dict[str, Any]:
    """What may change bits beside the method: software, the device that computes, its name, threads."""
    from importlib.metadata import PackageNotFoundError, version

    opencv = ("opencv-contrib-python-headless", "opencv-contrib-python")
    software = {}
    for name in ("numpy", "numba", "llvmlite", "torch", "torchvision", "scikit-learn", "pillow", *opencv):
        with suppress(PackageNotFoundError):
            software[name] = version(name)
    if "torch" not in sys.modules:
        return {"software": software, "device": "cpu", "threads": 1}
    import torch

    from ..stages.nets.precision import device_of

    place = device_of(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    shared = {"processes": ranks.count()} if ranks.count() > 1 else {}  # they change the order of sums
    return {"software": software, "device": name, "threads": torch.get_num_threads(), **shared}
