"""Errors answer one question: who can fix it, and when? The retry decision is a type."""


class Unavailable(Exception):
    """The world is busy: the same thing may be tried again, after `after` seconds if somebody said so."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.after = after


class Conflict(Exception):
    """Our view is old: read again, decide again."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Refused(Exception):
    """The bus refuses for good: a person has to change something. Names the thing and the reason."""
