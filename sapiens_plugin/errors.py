"""The one error that means: something the user gave is not right."""


class InputError(ValueError):
    """A file, a setting or a flag that the job cannot start or go on with.

    The message is one paragraph for the user: what is wrong, where it was found and
    what to do about it. The tools print it without a traceback and exit with 2.
    """


class UnreadableImage(InputError):
    """An image that is missing, damaged or not an image.

    Args:
        path: The file.
        reason: What is wrong with it, such as ``'it is cut short'``. PyTorch makes the
            error of a data-loading worker anew from a traceback alone, which then is
            the message.
    """

    def __init__(self, path: str, reason: str = ''):
        super().__init__(
            f'The image {path} cannot be read: {reason}. Fetch it again, or take its '
            'entry out of the annotation file.'
            if reason
            else path
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


def first_line(error: object) -> str:
    """Write an error in a line without a full stop, to go on behind it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip('.')
