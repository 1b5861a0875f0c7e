"""The console script `footfall-backend`, and `python -m backend`."""

import sys

from sdk_bridge import extras


def main() -> None:
    try:
        from backend.cli import main as run  # noqa: PLC0415 - it is this that may fail
    except ModuleNotFoundError as error:
        sys.exit(extras.missing("footfall-backend", "backend", error))
    run()


if __name__ == "__main__":
    main()
