"""The one error that a user can put right: what was found, where, and what to do."""


class UserError(ValueError):
    """Raised for input that distiq refuses; the command line prints its message alone and ends with code 2."""
