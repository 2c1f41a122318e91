"""The errors that a user can meet. Each says what is wrong, what was seen and what to do."""


class InputError(ValueError):
    """The input cannot be used as it is; the message is one line for the person who gave it."""


class HealthError(RuntimeError):
    """A run went wrong (NaN, black frames, no gradient, ...); the message names a remedy."""
