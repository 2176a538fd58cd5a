"""What can go wrong on the way to a Hub, switched on by a test. Each happens once."""

from dataclasses import dataclass

from .repositories import RefusalError


@dataclass
class Faults:
    """None means that it does not happen; what has happened is None again."""

    die_in_upload_after: int | None = None
    """Bytes of a large file after which the server is gone, until it is started again."""
    cut_download_after: int | None = None
    """Bytes of a file after which the connection is closed."""
    refuse_commit: int | None = None
    """The status that the next commit gets: 409 and 412 are conflicts, 500 a failure of the Hub."""
    meanwhile: dict[str, bytes] | None = None
    """Files that somebody else commits just before the next commit arrives."""
    fail: tuple[str, int] | tuple[str, int, str] | None = None
    """Part of a path, and the status that the next request for it gets, with an `X-Error-Code` if it has one."""

    def take(self, name: str):
        """The value of a fault, which is switched off by that."""
        value = getattr(self, name)
        setattr(self, name, None)
        return value

    def refuse(self, path: str) -> None:
        """Raise what a request for a path must fail with."""
        if self.fail is not None and self.fail[0] in path:
            _, status, *code = self.take("fail")
            raise RefusalError(status, code[0] if code else None, "this request was to fail")
