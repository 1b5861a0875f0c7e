"""What docs/bridge.md shows in other languages than Python, run where their programs are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sdk_bridge.server.proof import user_hash

PAGE = (Path(__file__).parent.parent.parent / "docs/bridge.md").read_text("utf-8")


def proof_in(language):
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(code for code in found if "HmacSHA256" in code or "createHmac" in code or "hash_hmac" in code)


def test_the_proof_in_javascript(node, tmp_path):
    (tmp_path / "proof.mjs").write_text(proof_in("js") + 'console.log(userHash("secret", "4711ü"));')
    assert node.run("proof.mjs", folder=tmp_path).strip() == user_hash("secret", "4711ü")


@pytest.mark.parametrize(
    ("language", "file", "rest", "command"),
    [
        ("php", "proof.php", 'echo user_hash("secret", "4711ü");', ["php"]),
        (
            "java",
            "Proof.java",
            'class Main { public static void main(String[] given) throws Exception'
            ' { System.out.println(Proof.userHash("secret", "4711\\u00fc")); } }',
            ["java"],
        ),
    ],
)  # fmt: skip
def test_the_proof_in_other_languages(language, file, rest, command, tmp_path):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: its example in docs/bridge.md is not run")
    opening = "<?php\n" if language == "php" else ""
    code = proof_in(language)
    if language == "java":  # the launcher runs the first class
        imports, _, body = code.partition("class Proof")
        code, rest = imports, rest + "\nclass Proof" + body
    (tmp_path / file).write_text(opening + code + rest, encoding="utf-8")
    done = subprocess.run(
        [*command, file], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == user_hash("secret", "4711ü"), done.stderr
