"""Tiles per second of the aerial generator in one and in two processes, as JSON.

python benchmarks/aerial.py --tiles 200
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor

from lag_core.data.aerial import DOMAINS, tile


def make(first: int, count: int, size: int) -> int:
    """Makes `count` tiles, half of them of each domain."""
    for seed in range(first, first + count):
        tile(seed, DOMAINS[seed % 2], size)
    return count


def rate(processes: int, tiles: int, size: int) -> float:
    """Tiles per second over all processes, after each has filled its stores of noise and crowns."""
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(make, [10**6] * processes, [40] * processes, [size] * processes))
        start = time.perf_counter()
        made = sum(pool.map(make, [i * tiles for i in range(processes)], [tiles] * processes, [size] * processes))
        return made / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tiles", type=int, default=200, help="tiles made by each process")
    parser.add_argument("--size", type=int, default=256, help="pixels along a side")
    args = parser.parse_args()
    rates = {str(n): round(rate(n, args.tiles, args.size), 1) for n in (1, 2)}
    print(json.dumps({"size": args.size, "tiles_per_process": args.tiles, "tiles_per_second": rates}))


if __name__ == "__main__":
    main()
