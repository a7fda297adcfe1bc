"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, the image or the parameter.

    The command prints the sentence and exits with status 2; a caller in Python catches it by name.
    """
