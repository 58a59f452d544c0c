"""What a person can fix: the text names the thing, the reason and the remedy."""


class Problem(Exception):
    """Ends the command with one message and `exit_code`."""

    def __init__(self, text: str, *, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Unheard(Problem):
    """Who was asked ought to be there, and does not answer."""
