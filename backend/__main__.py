"""`python -m backend`: the same as the console script."""

from backend.cli import main

main()
