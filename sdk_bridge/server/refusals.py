"""The one error that the bridge answers with: a status, a code for programs and a sentence for people."""

from msgspec import Struct


class RefusalBody(Struct):
    """Why the bridge did not take it: a word for programs, a sentence for people."""

    code: str
    message: str


class Refusal(Exception):
    """The request is answered with `status` and `{"code", "message"}`.

    Segment's SDKs come again after 408, 410, 429, 460 and 5xx, and drop the batch for ever on anything
    else, so 400 and 401 are only for what would fail again.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
