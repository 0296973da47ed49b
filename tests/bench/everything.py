"""All tables and figures of README.md and docs/ again, one program after the other, on an otherwise idle machine.

    python tests/bench/everything.py           four to five hours; after a stop the same command continues
    python tests/bench/everything.py --quick   nearly all of it with little work, in minutes; no new number is written

The programs that are finished are listed in models/everything.txt, until all are.
"""

import argparse
import signal
import subprocess
import sys
import time

from tables import ROOT, STOPPED, require

PROGRAMS = {  # program: its arguments, and those of --quick; None: not in the quick run
    "bench/accuracy.py": ("", "none"),
    "bench/search_methods.py": ("", None),
    "bench/training_speed.py": ("--write", "--rounds 1"),
    "bench/peers.py": ("--write", "--quick"),
    "bench/busy.py": ("--write", "--rounds 1 --seconds 1"),
    "bench/photos.py": ("--count 2500 --write", "--count 50"),
    "bench/digit_numbers.py": ("--write", "--count 4"),
    "bench/docs.py": ("--write", "shipped predict number draw"),
    "torture.py": ("", "--quick"),
}
PEERS = "torch", "jax", "sklearn", "threadpoolctl"  # modules; the quick run leaves out those that are not installed
FINISHED = ROOT / "models" / "everything.txt"


def main() -> None:
    """Run what is not finished; exit code 1 if a program fails, after all others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    require("pytest", *(() if quick else PEERS))  # now, not after hours
    signal.signal(signal.SIGINT, lambda *_: None)  # after Ctrl-C the program that runs ends, and says so
    finished = FINISHED.read_text().split() if FINISHED.exists() and not quick else []
    failed = []
    for program, arguments in PROGRAMS.items():
        if program in finished or arguments[quick] is None:
            continue
        print(f"\n$ python tests/{program} {arguments[quick]}", flush=True)
        start = time.perf_counter()
        command = [sys.executable, ROOT / "tests" / program, *arguments[quick].split()]
        exit_code = subprocess.run(command, cwd=ROOT).returncode
        if exit_code == STOPPED:
            sys.exit(STOPPED)
        if exit_code:
            failed.append(program)
        else:
            finished.append(program)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        if not quick:
            FINISHED.write_text("\n".join(finished))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if not quick:
        FINISHED.unlink()
    print(f"{len(finished)} programs finished")


if __name__ == "__main__":
    main()
