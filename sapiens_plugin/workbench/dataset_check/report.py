"""What a check found, as an object, as a table and as JSON."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sapiens_plugin.core.utils.amounts import counted

from .kinds import Finding, Severity, shown
from .samples import Sample

_WIDTH = 110  # characters, where it is not a terminal that says how many
_STYLES = {
    Severity.ERROR: 'bold red',
    Severity.WARNING: 'yellow',
    Severity.NOTE: 'cyan',
}


@dataclass(frozen=True)
class Totals:
    """How much there is.

    Attributes:
        images: Entries of images.
        images_read: Images with a person that training reads.
        annotations: Entries of annotations.
        persons: Annotations that training learns from.
        crowds: Annotations that are crowds.
        unlabelled: Annotations without a labelled keypoint, and no crowd.
        keypoints: How many a person has, 0 if not known.
        labelled_per_person: Mean number with a flag above 0.
        visible_per_person: Mean number with the flag 2.
        labelled: For each keypoint, the share of persons that have it labelled.
        box: Median width and height, px.
        small_boxes: Share of boxes smaller than 32 x 32 px.
        images_per_second: How fast image files were opened.
    """

    images: int
    images_read: int
    annotations: int
    persons: int
    crowds: int
    unlabelled: int
    keypoints: int
    labelled_per_person: float
    visible_per_person: float
    labelled: dict[str, float]
    box: tuple[float, float]
    small_boxes: float
    images_per_second: float


@dataclass(frozen=True)
class Report:
    """What the check of a data set found.

    Attributes:
        annotations: The file.
        images: The folder.
        findings: What is wrong: errors first.
        totals: How much there is.
        samples: Pictures to look at, with their persons.
    """

    annotations: Path
    images: Path
    findings: tuple[Finding, ...]
    totals: Totals
    samples: tuple[Sample, ...]

    def count(self, severity: Severity) -> int:
        """Return how many kinds of that severity were found."""
        return sum(finding.kind.severity is severity for finding in self.findings)

    @property
    def is_usable(self) -> bool:
        """Whether there is no error."""
        return not self.count(Severity.ERROR)

    def as_dict(self) -> dict:
        """Return all but the samples, ready for JSON."""
        return {
            'annotations': str(self.annotations),
            'images': str(self.images),
            'usable': self.is_usable,
            'findings': [
                {
                    'severity': finding.kind.severity.value,
                    'kind': finding.kind.name,
                    'meaning': finding.kind.meaning,
                    'count': finding.count,
                    'first': list(finding.first),
                }
                for finding in self.findings
            ],
            'totals': asdict(self.totals),
        }


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a report as tables."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH, highlight=False)
    console.print(_totals(report.totals))
    if report.findings:
        console.print(_findings(report.findings))
    console.print(Text(_summary(report)))


def _summary(report: Report) -> str:
    if not report.findings:
        return 'Nothing is wrong with it.'
    counts = [
        f'{counted(count, "kind")} of {severity.value}'
        for severity in Severity
        if (count := report.count(severity))
    ]
    verdict = (
        'A job can be run on it.'
        if report.is_usable
        else 'A job would stop, or learn nothing or wrongly from the entries named.'
    )
    return f'{", ".join(counts)}. {verdict}'


def _totals(totals: Totals) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in _lines(totals):
        table.add_row(Text(name), Text(value))
    return table


def _lines(totals: Totals) -> list[tuple[str, str]]:
    speed = f' (opened {totals.images_per_second:,.0f}/s)'
    lines = [
        (
            'images',
            f'{totals.images:,}; training reads {totals.images_read:,} of them'
            + (speed if totals.images_per_second else ''),
        ),
        (
            'annotations',
            f'{totals.annotations:,}: {counted(totals.persons, "person")} to learn '
            f'from, {totals.unlabelled:,} without keypoints, '
            + counted(totals.crowds, 'crowd'),
        ),
    ]
    if totals.persons:
        least = min(totals.labelled, key=totals.labelled.get)
        lines += [
            (
                'keypoints',
                f'{totals.keypoints} a person; {totals.labelled_per_person:.1f} '
                f'labelled, {totals.visible_per_person:.1f} visible on average; '
                f'least often: {shown(least)} '
                f'({100 * totals.labelled[least]:.0f} % of persons)',
            ),
            (
                'boxes',
                f'median {totals.box[0]:.0f} x {totals.box[1]:.0f} px; '
                f'{100 * totals.small_boxes:.1f} % smaller than 32 x 32 px',
            ),
        ]
    return lines


def _findings(findings: tuple[Finding, ...]) -> Table:
    table = Table(show_lines=True, expand=True)
    table.add_column('found', ratio=4)
    table.add_column('count', justify='right', no_wrap=True)
    table.add_column('first', ratio=4, overflow='fold')
    table.add_column('what it means', ratio=9)
    for finding in findings:
        kind = finding.kind
        more = ', ...' if finding.count > len(finding.first) else ''
        table.add_row(
            Text.assemble(
                (kind.severity.value, _STYLES[kind.severity]), f'\n{kind.name}'
            ),
            f'{finding.count:,}',
            Text(', '.join(finding.first) + more),
            Text(kind.meaning),
        )
    return table
