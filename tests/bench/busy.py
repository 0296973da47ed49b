"""Training 784-512-10 beside 0, 1 and 2 busy programs, with all BLAS threads and with one; ours and PyTorch.

    python tests/bench/busy.py [--rounds 5] [--seconds 2] [--write]

A busy program is an endless loop on one core. Each measurement is a process of its own, which trains for some seconds
after a warm-up; they take turns. Prints seconds for 60,000 images: median, least and largest of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
from tables import machine, require, run, start, write_table
from training_speed import CONTESTANTS, RNG

NEIGHBOURS = (0, 1, 2)
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this program
VARIANTS = {
    "ours": ("ours", None),
    "ours, 1 thread": ("ours", "1"),
    "torch": ("torch", None),
    "torch, 1 thread": ("torch", "1"),
}


def train(name: str, seconds: float) -> float:
    """Train for some seconds after a warm-up: seconds for 60,000 images."""
    images = RNG.integers(0, 256, (12_800, 28, 28), dtype=np.uint8)
    x = ((images.reshape(-1, 784) - images.mean()) / images.std()).astype(np.float32)
    epoch = CONTESTANTS[name](images, x, RNG.integers(0, 10, len(images)), 512, 128)
    epoch()
    start, epochs = time.perf_counter(), 0
    while epochs == 0 or time.perf_counter() - start < seconds:
        epoch()
        epochs += 1
    return (time.perf_counter() - start) / epochs * 60_000 / len(images)


def measure(name: str, threads: str | None, neighbours: int, seconds: float) -> float:
    """`train` in a new process beside busy programs."""
    variables = {name: threads for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if threads}
    command = [sys.executable, "-c", LOOP]
    busy = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(neighbours)]
    try:
        time.sleep(0.2)
        return float(run(__file__, "--train", name, str(seconds), env=os.environ | variables))
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    """Measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of training in each measurement")
    parser.add_argument("--write", action="store_true", help="write the table into docs/speed.md")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        name, seconds = arguments.train
        print(train(name, float(seconds)))
        return
    if arguments.write:
        require("torch")
    variants = {label: each for label, each in VARIANTS.items() if each[0] == "ours" or find_spec("torch")}
    times = {(label, count): [] for label in variants for count in NEIGHBOURS}
    for _ in range(arguments.rounds):
        for (label, count), seconds in times.items():
            seconds.append(measure(*variants[label], count, arguments.seconds))
    table = [["busy programs", *map(str, NEIGHBOURS)]]
    for label in variants:
        each = [sorted(times[label, count]) for count in NEIGHBOURS]
        table.append([label, *(f"{statistics.median(s):.2f} ({s[0]:.2f} to {s[-1]:.2f})" for s in each)])
    print("\n".join("  ".join(cell.rjust(22) for cell in row) for row in table))
    if arguments.write:
        what = f"Seconds for 60,000 images: median, least and largest of {arguments.rounds}"
        write_table("busy", table, f"{what}; {machine()}.")


if __name__ == "__main__":
    start(main)
