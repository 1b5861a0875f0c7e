"""What every test runs under."""

from hypothesis import settings

# Two loaded cores make single examples slow now and then; a rule is judged by its outcome, not by its speed.
settings.register_profile("footfall", deadline=None, print_blob=True)
settings.load_profile("footfall")

MOMENT_MS = 10**11  # integers beyond it are times taken at collection, which differ between workers


def pytest_make_parametrize_id(val, argname):
    """Ids that are the same in every worker: xdist refuses to run where they are not."""
    if isinstance(val, set | frozenset):
        return "-".join(sorted(map(str, val)))
    if isinstance(val, int) and not isinstance(val, bool) and abs(val) > MOMENT_MS:
        return argname
    return None
