"""The root of every error that Counterfoil raises on purpose."""


class CounterfoilError(Exception):
    """An error that a user can act on: what happened and, in `hint`, what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  hint: {self.hint}" if self.hint else message
