"""The snippet as a file: small, and made of its sources."""

import gzip
from pathlib import Path

WEB = Path(__file__).parent.parent.parent / "sdk_bridge/web"
MAX_GZIPPED = 6_000  # bytes; what a shop's page can spare


def test_the_file_is_small():
    assert len(gzip.compress((WEB / "footfall.js").read_bytes())) < MAX_GZIPPED


def test_the_file_is_what_its_sources_make(node):
    modules = node.install(WEB)
    node.run(str(modules / "typescript/bin/tsc"), folder=WEB)
    node.run("build.mjs", "--check", folder=WEB)
