"""What a command says where the libraries that it needs were not installed with it."""


def missing(command: str, extra: str, error: ModuleNotFoundError) -> str:
    """One line for whoever installed the package without the command's part of it."""
    return f"{command}: {error.name} is not installed; `pip install 'footfall[{extra}]'` brings what it needs"
