"""The one error that means: something the user gave is not right."""


class InputError(ValueError):
    """A file, a setting or a flag that the job cannot start or go on with.

    The message is one paragraph for the user: what is wrong, where it was found and
    what to do about it. The tools print it without a traceback and exit with 2.
    """
