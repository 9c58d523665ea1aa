"""Composes a picture: a place, people in it, things in front, and their labels."""

from dataclasses import dataclass

import numpy as np

from .brush import PARTS_A_PERSON
from .canvas import Canvas
from .figure import draw_person, is_occluded
from .person import Person
from .places import paint_place
from .props import paint_ground_contact, paint_thing_in_front

_SIZES = ((256, 256), (288, 256), (256, 288), (320, 256))

# Shares of the pictures, or of the people.
_WITH_COMPANY = 0.12
_CLOSE_UP = 0.06
_WITH_THING_IN_FRONT = 0.15


@dataclass(frozen=True)
class PersonLabel:
    """What COCO says of one person.

    Attributes:
        keypoints: (17, 3): x px, y px and visibility: 2 seen, 1 occluded, 0 outside the
            picture or turned away (x and y are then 0).
        box: x, y, width, height of the pixels that are the person's, px.
        area: how many pixels those are.
    """

    keypoints: np.ndarray
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Picture:
    """A picture (height, width, 3) uint8 in blue-green-red, and the people in it."""

    image: np.ndarray
    people: tuple[PersonLabel, ...]


def draw_picture(rng: np.random.Generator) -> Picture:
    """Draw a random picture of one or two people."""
    canvas = Canvas(*_SIZES[rng.integers(len(_SIZES))])
    horizon = paint_place(canvas, rng)
    people = _sample_people(canvas, rng, horizon)
    for person in people:
        paint_ground_contact(canvas, person, rng)
    for number, person in enumerate(people, start=1):
        draw_person(canvas, person, number)
        if rng.random() < _WITH_THING_IN_FRONT:
            paint_thing_in_front(canvas, person, rng)
    owners = canvas.owners()
    labels = (_label(p, owners, number) for number, p in enumerate(people, start=1))
    return Picture(canvas.image(), tuple(labels))


def _sample_people(
    canvas: Canvas, rng: np.random.Generator, horizon: float
) -> list[Person]:
    """One or two people, the farther one first."""
    width, height = canvas.width, canvas.height
    kind = rng.random()
    if kind < _CLOSE_UP:
        # The picture's border cuts the feet off, and sometimes an arm.
        stature = rng.uniform(0.95, 1.35) * height
        ground = rng.uniform(0.3, 0.7) * width, rng.uniform(1.0, 1.06) * stature
        return [Person.sample(rng, stature, ground)]
    stature = rng.uniform(0.4, 0.86) * height
    ground_y = rng.uniform(max(horizon + 0.05 * height, stature), 0.98 * height)
    if kind < _CLOSE_UP + _WITH_COMPANY:
        apart = rng.uniform(0.2, 0.32) * stature
        middle = rng.uniform(0.4, 0.6) * width
        pair = [
            Person.sample(
                rng, stature, (x, ground_y + rng.uniform(-0.04, 0.02) * height)
            )
            for x in (middle - apart, middle + apart)
        ]
        return sorted(pair, key=lambda person: person.toes[:, 1].max())
    margin = min(0.3 * stature, 0.5 * width)
    return [
        Person.sample(rng, stature, (rng.uniform(margin, width - margin), ground_y))
    ]


def _label(person: Person, owners: np.ndarray, number: int) -> PersonLabel:
    height, width = owners.shape
    points = person.keypoints
    column, row = np.floor(points + 0.5).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    unlabelled = ~inside | person.turned_away()
    under = owners[row.clip(0, height - 1), column.clip(0, width - 1)]
    visibility = np.where(is_occluded(person, under, number), 1, 2)
    visibility[unlabelled] = 0
    points = np.where(unlabelled[:, None], 0, points.round(2))

    mine = owners // PARTS_A_PERSON == number
    rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = (left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
    return PersonLabel(np.column_stack([points, visibility]), box, int(mine.sum()))
