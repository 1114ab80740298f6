"""The faults that a run must survive, planted one kind after the other: `python -m benchmarks.faults`, for hours.

Each kind is a command of its own, with a `--help` that tells what it does; docs/reliability.md has what they printed.
"""

import subprocess
import sys

KINDS = {
    "Bits flipped, files cut": ["fault_flips"],
    "Deaths inside a write": ["fault_writes"],
    "A disk that fills up": ["fault_disk"],
    "SIGKILL at random times": ["fault_kills", "--kills", "20"],
}


def main() -> None:
    """Print a section a kind; exit code 1 if any promise was not kept."""
    codes = []
    for title, (module, *options) in KINDS.items():
        print(f"\n## {title}\n", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *options]).returncode)
    sys.exit(1 if any(codes) else 0)


if __name__ == "__main__":
    main()
