"""HTML and SVG in which nothing that comes from a file can pass for markup."""

import html


class Markup(str):
    """Text that is markup already; every other text is escaped."""


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element with its children, each escaped unless it is markup.

    Args:
        name: Of the element.
        *children: Text, markup, or whatever ``str`` makes text of; None is left out.
        **attributes: Underscores stand for hyphens, one at the end for nothing
            (``class_``); None is left out.
    """
    pairs = ''.join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f'<{name}{pairs}>{join(*children)}</{name}>')


def join(*children: object) -> Markup:
    """Return children one after the other, each escaped unless it is markup."""
    return Markup(
        ''.join(
            child if isinstance(child, Markup) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )
