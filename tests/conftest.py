"""What every test runs under."""

import multiprocessing
import os
import shutil
from contextlib import closing, contextmanager

import pytest
from hypothesis import settings

from backend.storage.database import open_for_writing

# Two loaded cores make single examples slow now and then; a rule is judged by its outcome, not by its speed.
settings.register_profile("footfall", deadline=None, print_blob=True)
settings.load_profile("footfall")

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["backend.fold", "gateway.outbox", "gateway.uplink"])
AS_A_PROGRAM = "import os, sys; os.dup2(out.fileno(), 1); sys.argv = ['-c', *arguments]\n"

# One browser and one backend for all SDKs, and never two demos beside each other, on any number of workers.
ONE_WORKER = ("tests/sdks/", "tests/e2e/test_demo.py")

MOMENT_MS = 10**11  # integers beyond it are times taken at collection, which differ between workers


def pytest_make_parametrize_id(val, argname):
    """Ids that are the same in every worker: xdist refuses to run where they are not."""
    if isinstance(val, set | frozenset):
        return "-".join(sorted(map(str, val)))
    if isinstance(val, int) and not isinstance(val, bool) and abs(val) > MOMENT_MS:
        return argname
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Groups by where tests stand: from pytest 9.2 on, the mark that xdist 3.8 has silently does nothing."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where there are workers

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((place for place in ONE_WORKER if nodeid.startswith(place)), nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def first_start(tmp_path_factory):
    """A folder with both databases as a first start leaves them."""
    folder = tmp_path_factory.mktemp("first_start")
    for area in ("journal", "state"):
        with closing(open_for_writing(folder / f"{area}.db", area)):
            pass
    return folder


@pytest.fixture
def new_file(first_start, tmp_path):
    """Where a database of the test's own lies, made already: each migration would wait for the disk."""

    def path_of(area):
        path = tmp_path / f"{area}.db"
        if not path.exists():
            shutil.copyfile(first_start / path.name, path)
        return path

    return path_of


@contextmanager
def _child(script, *arguments):
    """A process that runs a script, and the lines that it prints; dead afterwards.

    It is forked from one that has nothing but imported: to start anew takes a second, and tests kill dozens.
    """
    reader, writer = FORKED.Pipe(duplex=False)
    told = {"__name__": "__main__", "out": writer, "arguments": list(map(str, arguments))}
    process = FORKED.Process(target=exec, args=(AS_A_PROGRAM + script, told))
    process.start()
    writer.close()
    with reader, os.fdopen(os.dup(reader.fileno())) as lines:
        try:
            yield process, lines
        finally:
            process.kill()
            process.join()


@pytest.fixture(scope="session")
def child():
    """Runs a Python script in a process that a test may kill."""
    return _child
