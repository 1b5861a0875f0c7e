"""Settings files: typed, and each mistake one line for the person who wrote it."""

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from sdk_bridge.settings import SettingsError, load_settings, parse_settings


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    uuid: str
    major: Annotated[int, Meta(ge=0, le=65535)] | None = None


class Outbox(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = "outbox.db"
    limits: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.path == "/":
            raise ValueError("path must be a file")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    mode: Literal["active", "passive"] = "active"
    outbox: Outbox = Outbox()
    spare: Outbox | None = None
    allow: list[Rule] = []


def complaint(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, Settings, "my.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("my.toml: ")
    return message.removeprefix("my.toml: ")


def test_a_file_becomes_a_struct(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('name = "Tür"\n[outbox]\nlimits = {a = 1}\n[[allow]]\nuuid = "u"\n', "utf-8")
    assert load_settings(path, Settings) == Settings("Tür", outbox=Outbox(limits={"a": 1}), allow=[Rule("u")])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "name: this key is required"),
        ("name = 1", "name: it may be a text in quotes, not empty; this is a whole number"),
        ('name = ""', "name: it may be a text in quotes, not empty"),
        ('nam = "x"', "nam: unknown key; did you mean `name`?"),
        ('zzzzzz = 1', "zzzzzz: unknown key; it may be one of name, mode, outbox, spare, allow"),
        ('name = "x"\n[outbox]\npaht = "p"', "outbox.paht: unknown key; did you mean `path`?"),
        ('name = "x"\n[spare]\nqqq = "p"', "spare.qqq: unknown key; it may be one of path, limits"),
        ('name = "x"\n[outbox.limits]\na = "b"', "outbox.limits[...]: it may be a whole number; this is a "),
        ('name = "x"\n[outbox]\npath = "/"', "outbox: path must be a file"),
        ('name = "x"\nallow = 1', "allow: it may be a list; this is a whole number"),
        ('name = "x"\n[[allow]]\nmajor = 1', "allow[0].uuid: this key is required"),
        (
            'name = "x"\n[[allow]]\nuuid = "u"\n[[allow]]\nuuid = "u"\nmayor = 1',
            "allow[1].mayor: unknown key; did you mean `major`?",
        ),
        ('name = "x"\noutbox = true', "outbox: it may be a table with keys of its own; this is true "),
        (
            'name = "x"\n[[allow]]\nuuid = "u"\nmajor = 70000',
            "allow[0].major: it may be a whole number from 0 to 65535",
        ),
        ('name = "x"\nname = "y"', "not TOML: "),
        ("name = ", "not TOML: "),
        ("[", "not TOML: "),
    ],
)  # fmt: skip
def test_mistakes(text, line):
    assert complaint(text).startswith(line)


def test_a_choice_is_told_with_its_options():
    assert complaint('name = "x"\nmode = "activ"') == "mode: it may be one of active, passive"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b'name = "\xff"'), "it is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, make, reason):
    path = tmp_path / "my.toml"
    make(path)
    with pytest.raises(SettingsError) as caught:
        load_settings(path, Settings)
    assert str(caught.value) == f"{path}: cannot be read: {reason}"


@given(st.text(max_size=80))
def test_whatever_is_written_the_answer_is_settings_or_one_line(text):
    try:
        parse_settings(text, Settings, "my.toml")
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1
