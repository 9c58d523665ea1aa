import numpy as np

from sapiens_plugin.engine.logging.pose_pictures import arrange, draw_pair, draw_pose

RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (90, 90, 90)
GREY_CROP = np.full((120, 90, 3), 90, np.uint8)
LINKS = dict(links=[(0, 1), (1, 2)], link_colors=np.array([RED, RED]))


def pixel(image, x, y):
    return tuple(image[y, x].tolist())


def test_a_pose_has_its_points_and_the_links_between_them():
    points = np.array([[10.4, 20.2], [70, 20], [70, 100]])
    image = draw_pose(GREY_CROP, points, shown=np.array([True, True, False]), **LINKS)
    assert pixel(image, 10, 20) == pixel(image, 70, 20) == WHITE
    assert pixel(image, 40, 20) == RED
    assert pixel(image, 70, 60) == pixel(image, 70, 100) == GREY  # not shown
    assert (GREY_CROP == 90).all()  # the crop itself is as it was


def test_points_that_are_nowhere_are_not_drawn():
    points = np.array([[10, 20], [np.nan, 20], [1e30, -np.inf]])
    image = draw_pose(GREY_CROP, points, shown=np.ones(3, bool), **LINKS)
    assert pixel(image, 10, 20) == WHITE
    image[15:26, 5:16] = 90
    assert (image == 90).all()


def test_the_prediction_is_left_and_the_truth_right_at_a_common_height():
    shown = np.ones(3, bool)
    image = draw_pair(
        GREY_CROP,
        predicted=np.array([[10, 60], [70, 60], [70, 110]]),
        predicted_shown=shown,
        true=np.array([[10, 100], [70, 100], [70, 40]]),
        true_shown=shown,
        skeletons={3: tuple(LINKS.values())},
    )
    assert image.shape == (240, 360, 3)  # both scaled by two
    assert pixel(image, 80, 120) == RED and pixel(image, 180 + 80, 120) == GREY
    assert pixel(image, 80, 200) == GREY and pixel(image, 180 + 80, 200) == RED


def test_poses_of_two_skeletons_or_none_lie_side_by_side():
    image = draw_pair(
        GREY_CROP,
        predicted=np.array([[10, 60], [70, 60], [70, 110]]),
        predicted_shown=np.ones(3, bool),
        true=np.array([[10, 60], [70, 60]]),
        true_shown=np.ones(2, bool),
        skeletons={3: tuple(LINKS.values())},
    )
    assert pixel(image, 80, 120) == RED and pixel(image, 180 + 80, 120) == GREY
    assert pixel(image, 140, 120) == pixel(image, 180 + 140, 120) == WHITE


def test_a_sheet_fills_its_last_row_with_white():
    pictures = [np.full((10, 20, 3), value, np.uint8) for value in (1, 2, 3, 4, 5)]
    sheet = arrange(pictures, columns=2)
    assert sheet.shape == (3 * 22, 2 * 32, 3)
    seen = [pixel(sheet, x, y)[0] for y in (11, 33, 55) for x in (16, 48)]
    assert seen == [1, 2, 3, 4, 5, 255]
    assert arrange(pictures[:1], columns=4).shape == (22, 32, 3)
