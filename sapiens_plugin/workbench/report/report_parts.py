"""What the sections of a report are made of."""

from collections.abc import Sequence

from .markup import Markup, element


def section(heading: str, *content: Markup) -> Markup:
    """Return a section with its heading."""
    return element('section', element('h2', heading), *content)


def missing(text: str) -> Markup:
    """Say in a section's place why there is nothing."""
    return element('p', text, class_='missing')


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str,
    numbers: bool = False,
) -> Markup:
    """Return a table; the first column names its rows.

    Args:
        heads: Of the columns.
        rows: Texts, numbers or markup.
        caption: What the table tells.
        numbers: Whether the columns but the first hold numbers, to be read in columns.
    """
    look = 'number' if numbers else None

    def cell(value: object) -> Markup:
        bars = isinstance(value, Markup)
        return element('td', value, class_='bars' if bars else look)

    first, *others = zip(heads, rows[0] if rows else heads, strict=True)
    head = element(
        'tr',
        element('th', first[0], scope='col'),
        *(
            element(
                'th',
                name,
                scope='col',
                class_='bars' if isinstance(below, Markup) else look,
            )
            for name, below in others
        ),
    )
    body = [
        element('tr', element('th', name, scope='row'), *(cell(value) for value in row))
        for name, *row in rows
    ]
    whole = element(
        'table',
        element('caption', caption),
        element('thead', head),
        element('tbody', *body),
    )
    # What is too wide for a telephone moves by itself, not the page.
    return element('div', whole, class_='scroll', tabindex=0)
