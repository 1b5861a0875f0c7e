"""The console script `footfall-sim`, and `python -m simulators`."""

import sys

from sdk_bridge import extras


def main() -> None:
    try:
        from simulators.cli import main as run  # noqa: PLC0415 - it is this that may fail
    except ModuleNotFoundError as error:
        sys.exit(extras.missing("footfall-sim", "simulators", error))
    run()


if __name__ == "__main__":
    main()
