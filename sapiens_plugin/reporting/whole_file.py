"""Files that appear under their name only when they are whole."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text, in the place of an earlier one; a failure leaves nothing behind.

    Raises:
        OSError: The disk is full, say, or another program holds the file.
    """
    part = path.with_name(path.name + '.part')
    try:
        part.write_text(text, encoding='utf-8', newline='\n')
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
