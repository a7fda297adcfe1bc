"""Reading a cached entry against numpy reading the same bytes, warm, interleaved; the verified rate beside it.

    python benchmarks/cache_reads.py [--boxes 2000] [--length 9216] [--entries 8] [--rounds 7]

Prints gigabytes per second (medians) and the median of the ratios of neighbouring readings. Aim: unverified >= 0.8.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rcnn.cache.store import Shelf


def seconds(read: Callable[[int], object], entries: int) -> float:
    start = time.perf_counter()
    for i in range(entries):
        read(i)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"boxes": 2000, "length": 9216, "entries": 8, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        features = rng.random((args.boxes, args.length)).astype(np.float16)
        plain = [Path(folder) / f"{i}.bin" for i in range(args.entries)]
        shelf = Shelf(Path(folder) / "features-000000000000")
        for i in range(args.entries):
            features.tofile(plain[i])
            shelf.write(str(i), "inputs", {"features.pool5": features})

        def by_cache(i: int, verify: bool) -> object:
            fresh = Shelf(shelf.path, verify=verify)  # knows nothing, as at the first open in a process
            entry = fresh.find(str(i))
            assert entry is not None
            return fresh.read(entry, ["features.pool5"])

        ways: dict[str, Callable[[int], object]] = {
            "numpy.fromfile": lambda i: np.fromfile(plain[i], np.float16).reshape(features.shape),
            "cache, unverified": lambda i: by_cache(i, False),
            "cache, verified": lambda i: by_cache(i, True),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, read in ways.items():
                times[name].append(seconds(read, args.entries))
    size = features.nbytes * args.entries / 1e9
    print(f"{args.entries} entries of {args.boxes} x {args.length} float16, {features.nbytes / 1e6:.0f} MB each")
    for name, taken in times.items():
        ratio = median(base / own for base, own in zip(times["numpy.fromfile"], taken))
        print(f"{name:18} {size / median(taken):6.2f} GB/s   {ratio:5.2f} of numpy")


if __name__ == "__main__":
    main()
