"""`simonides`, and `python -m simonides`: the command line, which may be interrupted while it is still being loaded."""

import sys


def main() -> None:
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)  # as `cli` says it of whatever comes later
    run()


if __name__ == "__main__":
    main()
