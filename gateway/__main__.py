"""The console script `footfall-gateway`, and `python -m gateway`."""

import sys

from sdk_bridge import extras


def main() -> None:
    try:
        from gateway.cli import main as run  # noqa: PLC0415 - it is this that may fail
    except ModuleNotFoundError as error:
        sys.exit(extras.missing("footfall-gateway", "gateway", error))
    run()


if __name__ == "__main__":
    main()
