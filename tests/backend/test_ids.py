"""Time-ordered identifiers: what RFC 9562 says of them, and that no two are the same."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from backend.ids import uuid7

NOW = 1_750_075_200_000
SEVERAL = 1_000  # more than are made at once


def test_an_id_is_of_version_seven_and_tells_its_time() -> None:
    for made in (uuid7(NOW + step) for step in range(SEVERAL)):
        read = uuid.UUID(made)
        assert (str(read), read.version, read.variant) == (made, 7, uuid.RFC_4122)
    assert uuid.UUID(uuid7(NOW)).int >> 80 == NOW


def test_ids_sort_by_time() -> None:
    made = [uuid7(NOW + step) for step in range(SEVERAL)]
    assert made == sorted(made)


def test_no_two_threads_make_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: uuid7(NOW), range(20 * SEVERAL)))
    assert len(set(made)) == len(made)


def test_a_child_process_makes_its_own() -> None:
    uuid7(NOW)  # some are made beforehand
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(here, uuid7(NOW).encode())
        os._exit(0)
    os.waitpid(child, 0)
    ours = {uuid7(NOW) for _ in range(SEVERAL)}
    assert os.read(there, 36).decode() not in ours
    os.close(there)
    os.close(here)
