import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from small_run import (
    CONFIG,
    epoch_records,
    make_plan,
    write_run,
    write_start,
    write_validation,
)

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.report.report import write_report

_VOID = {'meta'}
_HOSTILE = '<script>alert(1)</script>"\'&'


class Page(HTMLParser):
    """Reads a page and refuses what is not well formed or not self-contained."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding='utf-8')
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.facts: dict[str, str] = {}
        self._open: list[str] = []
        self._text: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f'<{tag}> has an attribute twice'
        for name, value in attrs:
            assert not name.startswith('on'), name
            if name in ('href', 'src', 'action', 'srcset'):
                self.pictures.append(value)
                assert value.startswith('data:image/jpeg;base64,'), value[:80]
        if 'id' in attributes:
            self.ids.append(attributes['id'])
        if tag in _VOID:
            return
        self._open.append(tag)
        if tag == 'tr':
            self._rows.append([])
        if tag in ('th', 'td', 'caption', 'dt', 'dd'):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f'</{tag}> closes something else'
        text = ''.join(self._text)
        if tag in ('th', 'td'):
            self._rows[-1].append(text)
        elif tag == 'caption':
            self._rows = []
            self._caption = text
        elif tag == 'table':
            self.tables[self._caption] = self._rows
        elif tag == 'dt':
            self._name = text
        elif tag == 'dd':
            self.facts[self._name] = text

    def handle_data(self, data: str) -> None:
        (self.styles if self._open[-1:] == ['style'] else self.texts).append(data)
        self._text.append(data)

    @property
    def text(self) -> str:
        return ' '.join(self.texts)

    def table(self, beginning: str) -> dict[str, list[str]]:
        """Return the rows of a table by their first cells."""
        rows = next(r for c, r in self.tables.items() if c.startswith(beginning))
        return {first: others for first, *others in rows}


def write(work_dir: Path) -> Page:
    path = write_report(work_dir)
    assert path == work_dir / 'report.html'
    assert list(work_dir.glob('*.part')) == []
    return Page(path)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """A run with everything, and its data."""
    work_dir, data = (tmp_path_factory.mktemp(name) for name in ('work', 'data'))
    write_run(work_dir)
    write_validation(work_dir, data)
    (work_dir / 'plan.json').write_text(json.dumps(make_plan()), encoding='utf-8')
    return work_dir, data


@pytest.fixture(scope='module')
def page(whole) -> Page:
    return write(whole[0])


def test_the_page_is_well_formed_and_needs_nothing_else(page):
    assert len(page.ids) == len(set(page.ids)) >= 3
    assert {'script', 'link', 'iframe', 'object', 'img'}.isdisjoint(page.tags)
    assert page.tags.count('h1') == 1
    assert '://' not in page.source
    assert not re.search(r'url\(|@import', ''.join(page.styles))
    assert len(page.source) < 2_000_000


def test_whoever_does_not_see_it_can_read_it(page):
    assert '<html lang="en">' in page.source
    pictures = re.findall(r'<svg [^>]*role="img"[^>]*><title', page.source)
    # Three curves and 18 persons; every other drawing says it can be passed over.
    assert len(pictures) == 3 + 18
    svgs = len(re.findall(r'<svg ', page.source))
    assert svgs == len(pictures) + page.source.count('aria-hidden="true"')
    labelled = re.findall(r'aria-labelledby="([^"]+)"', page.source)
    assert len(labelled) == 3 and set(labelled) <= set(page.ids)


def test_both_colour_schemes_and_paper_are_styled(page):
    style = ''.join(page.styles)
    assert '@media (prefers-color-scheme: dark)' in style
    assert '@media print' in style


def test_the_facts_are_those_of_the_log(page):
    assert page.facts['Epochs'] == '4 of 4'
    assert page.facts['Best AP'].startswith('0.800')
    assert page.facts['Last loss'] == f'{4 / 380**0.5:.3g}'
    # 100 iterations of half a second, 300 of a second; two make a step.
    assert page.facts['Training time'].startswith('6 min')
    assert page.facts['Optimizer step'].startswith('1.75 s')
    assert 'Finished: 4 of 4 epochs were trained' in page.text
    assert 'resumed once' in page.text


def test_curves_end_where_the_log_does_and_are_marked(page):
    assert 'Training loss, from 0.632 at epoch 0.4 to 0.205 at epoch 3.8.' in page.text
    assert 'best is 0.800 after epoch 4' in page.text
    assert 'Learning rate, 0.001 at its highest' in page.text
    marks = 'Vertical lines: everything trains after epoch 1, resumed after epoch 2.'
    assert marks in page.text
    assert 'learning rate' in page.texts and 'epoch (of 100 iterations)' in page.texts
    # Eight points a line: the loss, two learning rates; four, of two APs.
    assert page.source.count('<circle') >= 3 * 8 + 2 * 4


def test_every_validation_stands_in_the_table(page):
    rows = page.table('The validations while training')
    assert rows['2'][:3] == ['0.400', '0.500', '–']
    assert list(rows) == ['Epoch', '1', '2', '3', '4']


def test_the_best_and_the_worst_persons_are_shown(page):
    oks = [float(value) for value in re.findall(r'<b>OKS ([\d.]+)</b>', page.source)]
    best, worst = oks[:6], oks[6:]
    assert best == sorted(best, reverse=True) and best[0] == 1.0
    assert worst == sorted(worst) and worst[0] == 0.0 and len(worst) == 12
    assert min(best) > max(worst)
    assert '17 keypoints, no prediction left' in page.texts
    assert len(page.pictures) == 18
    for picture in page.pictures:
        data = base64.b64decode(picture.partition(',')[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.format == 'JPEG' and max(image.size) <= 340


def test_nobody_is_shown_twice(tmp_path):
    work_dir = write_run(tmp_path / 'work')
    write_validation(work_dir, tmp_path / 'data', persons=15)
    page = write(work_dir)
    assert len(page.pictures) == 15
    write_validation(work_dir, tmp_path / 'few', persons=3)
    page = write(work_dir)
    assert len(page.pictures) == 3


def test_keypoints_and_sizes_have_their_ap(page):
    keypoints = page.table('AP by keypoint')
    assert list(keypoints)[1:] == [name.replace('_', ' ') for name in KEYPOINT_NAMES]
    # The greater its sigma, the farther may a keypoint be off.
    aps = {name: float(cells[1]) for name, cells in list(keypoints.items())[1:]}
    assert aps['left eye'] < aps['left ear'] < aps['left knee'] < aps['left hip'] < 1
    assert keypoints['nose'][4:] == ['20', '0.026']
    sizes = page.table('AP by the square root')
    assert sizes['COCO medium: 32–96 px'][4] == '6'  # 40 to 90 px
    assert sizes['COCO large: from 96 px'][4] == '14'
    assert sizes['64–96 px'][4] == '3'
    assert 'below 32 px' not in sizes


def test_the_plan_stands_beside_what_happened(page):
    rows = page.table('Times are means')
    assert rows['head alone · epochs'] == ['1', '1', '']
    assert rows['head alone · an optimizer step'] == ['0.8 s', '1 s', '1.25 ×']
    assert rows['everything · an optimizer step'] == ['4 s', '2 s', '0.50 ×']
    assert rows['everything · an epoch'] == ['3 min', '100 s', '0.56 ×']
    assert rows['everything · all its epochs'] == ['9 min', '5 min', '0.56 ×']
    assert rows['Validations (4 so far)'] == ['72.0 s', '2 min', '']
    assert rows['Training and validations so far'][1] == '8 min'
    assert rows['GPU memory, peak'] == ['6,008 MiB', '3,004 MiB', '0.50 ×']
    assert rows['Host memory, peak'] == ['4.0 GiB', '2.0 GiB', '0.50 ×']
    assert 'The plan for gtx1650 was computed, not measured' in page.text
    assert 'By arithmetic alone the job takes 8 min' in page.text


def test_a_plan_written_by_powershell_is_read(whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    text = json.dumps(make_plan())
    (work_dir / 'plan.json').write_text(text, encoding='utf-16')
    assert 'Planned' in write(work_dir).table('Times are means')['What']


def test_the_job_its_checkpoints_and_versions_are_listed(page):
    job = page.table('The job in short')
    assert job['Architecture'] == ['sapiens_1b']
    assert job['Input, height × width in px'] == ['384 × 288']
    assert job['Epochs of the head alone'] == ['1']
    assert CONFIG.strip() in page.text
    assert page.table('In the work directory')['epoch_4.pth'] == ['2.9 MiB']
    versions = page.table('As the last start')
    assert versions['PyTorch'] == ['2.13.0+cu130']
    assert versions['Python'] == ['3.11.7 (main)']
    assert 'Max-Q' in versions['GPU 0'][0]
    assert 'OpenCV' not in versions  # what stands behind the versions is none


def test_an_interrupted_run_without_anything_else_has_its_report(tmp_path):
    work_dir = write_run(tmp_path / 'work', epochs=3, validate=False)
    page = write(work_dir)
    assert 'Not finished: the last log line is of epoch 3 of 4' in page.text
    assert 'No validation with coco/AP was logged' in page.text
    assert 'No best_validation.json lies in the work directory' in page.text
    assert 'No plan.json lies in the work directory' in page.text
    rows = page.table('Times are means')
    assert rows['everything · epochs'] == ['1.8']
    assert rows['everything · all its epochs, so far'] == ['3 min']
    assert rows['All training, to its end at the measured pace'] == ['6 min']
    assert rows['Validations (0 so far)'] == ['–']


def test_a_run_in_its_first_phase_has_nothing_to_say_of_the_second(tmp_path):
    work_dir = write_run(tmp_path / 'work', epochs=1)
    rows = write(work_dir).table('Times are means')
    assert rows['everything · an optimizer step'] == ['–']
    assert rows['All training, to its end at the measured pace'] == ['–']


def test_a_single_log_line_is_enough(tmp_path):
    folder = write_start(tmp_path, '20260101_000000', epoch_records(1)[:1])
    shutil.rmtree(folder)
    path = write_start(tmp_path, '20260101_000000', epoch_records(1)[:1])
    (path / 'vis_data' / 'config.py').unlink()
    (path / '20260101_000000.log').unlink()
    page = write(tmp_path)
    assert 'The config was not found' in page.text
    assert 'says nothing of versions' in page.text
    assert 'No checkpoint lies in the work directory' in page.text


def test_images_that_are_gone_are_named_in_their_places(whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    data = shutil.copytree(whole[1], tmp_path / 'data')
    kept = json.loads((work_dir / 'best_validation.json').read_text('utf-8'))
    kept['images'] = str(data / 'images')
    (work_dir / 'best_validation.json').write_text(json.dumps(kept), 'utf-8')
    (data / 'images' / '000000.jpg').unlink()
    (data / 'images' / '000001.jpg').write_bytes(b'no image')
    page = write(work_dir)
    assert len(page.pictures) == 16
    for name in ('000000.jpg', '000001.jpg'):
        assert f'The image cannot be read: {data / "images" / name}' in page.text


@pytest.mark.parametrize(
    'edit, message',
    [
        (lambda path: path.unlink(), 'cannot be read'),
        (lambda path: path.write_text('[', 'utf-8'), 'is not JSON in UTF-8'),
        (lambda path: path.write_text('[]', 'utf-8'), 'holds no COCO annotations'),
        (
            lambda path: path.write_text('{"images": []}', 'utf-8'),
            'is not that of COCO keypoints',
        ),
        (
            lambda path: path.write_text(
                path.read_text('utf-8').replace('"file_name"', '"name"', 1), 'utf-8'
            ),
            "is not that of COCO keypoints: KeyError('file_name')",
        ),
        (
            lambda path: path.write_text(
                path.read_text('utf-8').replace('[55, 35, 90, 150]', '[5]', 1), 'utf-8'
            ),
            'is not that of COCO keypoints',
        ),
        (
            lambda path: path.write_text(
                '{"images": [], "annotations": [], "categories": []}', 'utf-8'
            ),
            'lack 19 of the images with predictions',
        ),
    ],
)
def test_annotations_that_do_not_fit_leave_the_rest(edit, message, whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    data = shutil.copytree(whole[1], tmp_path / 'data')
    kept = json.loads((work_dir / 'best_validation.json').read_text('utf-8'))
    kept['annotations'] = str(data / 'val.json')
    (work_dir / 'best_validation.json').write_text(json.dumps(kept), 'utf-8')
    edit(data / 'val.json')
    page = write(work_dir)
    assert 'Nothing to show here.' in page.text and message in page.text
    assert page.facts['Best AP'].startswith('0.800')


def kept_with(**changes):
    def edit(kept: dict) -> dict:
        return kept | changes

    return edit


def kept_with_result(**changes):
    def edit(kept: dict) -> dict:
        first, *others = kept['results']
        return kept | {'results': [first | changes, *others]}

    return edit


def kept_without_score(kept: dict) -> dict:
    del kept['results'][0]['score']
    return kept


@pytest.mark.parametrize(
    'edit',
    [
        lambda kept: [],
        lambda kept: {'epoch': 3},
        kept_without_score,
        kept_with_result(score=None),
        kept_with_result(keypoints=[0.0]),
        kept_with_result(keypoints=[None] * 51),
        kept_with_result(image_id=[1]),
        kept_with_result(bbox=[1, 2]),
        kept_with(epoch=None),
        kept_with(metrics={}),
        kept_with(seconds='36'),
        kept_with(sigmas=[None] * 17),
        kept_with(skeleton=[[0, 17]]),
        kept_with(skeleton=[0]),
        kept_with(images=None),
    ],
)
def test_a_damaged_validation_leaves_the_rest(edit, whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    path = work_dir / 'best_validation.json'
    kept = json.loads(path.read_text('utf-8'))
    path.write_text(json.dumps(edit(kept)), encoding='utf-8')
    page = write(work_dir)
    assert f'Nothing to show here. {path} ' in page.text
    assert page.facts['Best AP'].startswith('0.800')
    assert 'Planned' in page.table('Times are means')['What']


def plan_with_phase(**changes):
    def edit(plan: dict) -> dict:
        plan['phases'][0] |= changes
        return plan

    return edit


def plan_without_name(plan: dict) -> dict:
    del plan['phases'][0]['name']
    return plan


@pytest.mark.parametrize(
    'edit',
    [
        lambda plan: [],
        lambda plan: {},
        lambda plan: plan | {'phases': [3]},
        lambda plan: plan | {'total_hours': '3'},
        plan_with_phase(epochs=None),
        plan_with_phase(epochs=1.5),
        plan_without_name,
    ],
)
def test_a_damaged_plan_leaves_the_rest(edit, tmp_path):
    work_dir = write_run(tmp_path)
    path = work_dir / 'plan.json'
    path.write_text(json.dumps(edit(make_plan())), encoding='utf-8')
    page = write(work_dir)
    assert f'{path} is not what `tools/plan.py --json` prints' in page.text
    assert page.table('Times are means')['What'] == ['Measured']


def test_files_that_are_no_json_are_named(whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    for name in ('best_validation.json', 'plan.json'):
        (work_dir / name).write_text('{"epoch"', encoding='utf-8')
    page = write(work_dir)
    for name in ('best_validation.json', 'plan.json'):
        assert str(work_dir / name) in page.text


def test_predictions_of_a_diverged_model_are_counted(whole, tmp_path):
    work_dir = shutil.copytree(whole[0], tmp_path / 'work')
    path = work_dir / 'best_validation.json'
    kept = json.loads(path.read_text('utf-8'))
    for result in kept['results'][:2]:
        result['keypoints'][:2] = [float('nan')] * 2
    path.write_text(json.dumps(kept), encoding='utf-8')
    page = write(work_dir)
    assert '2 of the predictions are not finite' in page.text
    assert page.texts.count('17 keypoints, no prediction left') == 3
    for result in kept['results']:
        result['keypoints'] = [float('nan')] * 51
    path.write_text(json.dumps(kept), encoding='utf-8')
    assert '19 of the predictions are not finite' in write(work_dir).text


def test_a_loss_that_is_no_number_is_left_out_of_the_curve(tmp_path):
    records = epoch_records(1) + epoch_records(2)
    records[1]['loss'] = float('nan')
    write_start(tmp_path, '20260101_000000', records)
    page = write(tmp_path)
    assert 'nan' not in re.findall(r'<path d="([^"]*)"', page.source)[0]


def test_hooks_of_older_configs_count(tmp_path):
    work_dir = write_run(tmp_path / 'work')
    hook = "custom_hooks = [dict(type='sapiens_plugin.PhaseSwitchHook')]"
    old, count = re.subn(r'default_hooks = .*?None\)', hook, CONFIG, flags=re.DOTALL)
    assert count == 1
    for path in work_dir.glob('*/vis_data/config.py'):
        path.write_text(old, encoding='utf-8')
    job = write(work_dir).table('The job in short')
    assert job['Epochs of the head alone'] == ['10']  # the hook's own


def test_hostile_names_and_settings_stay_text(whole, tmp_path):
    work_dir = write_run(tmp_path / 'work &lt;b>')
    data = shutil.copytree(whole[1], tmp_path / 'data')
    for folder in work_dir.glob('2026*'):
        config = CONFIG.replace("'sapiens_1b'", repr(_HOSTILE))
        (folder / 'vis_data' / 'config.py').write_text(config, encoding='utf-8')
        log = f'    PyTorch: {_HOSTILE}\n'
        (folder / f'{folder.name}.log').write_text(log, encoding='utf-8')
    plan = make_plan()
    plan['phases'][0]['name'] = _HOSTILE
    (work_dir / 'plan.json').write_text(json.dumps(plan), encoding='utf-8')
    kept = json.loads((whole[0] / 'best_validation.json').read_text('utf-8'))
    kept['keypoints'][0] = _HOSTILE
    kept['annotations'], kept['images'] = str(data / 'val.json'), str(data / 'images')
    (work_dir / 'best_validation.json').write_text(json.dumps(kept), 'utf-8')
    dataset = json.loads((data / 'val.json').read_text('utf-8'))
    dataset['images'][0]['file_name'] = _HOSTILE
    (data / 'val.json').write_text(json.dumps(dataset), encoding='utf-8')

    page = write(work_dir)  # no tag of theirs, or it would not be well formed
    assert 'script' not in page.tags and 'b>' in page.text
    job = page.table('The job in short')
    assert job['Architecture'] == [_HOSTILE]
    assert page.table('As the last start')['PyTorch'] == [_HOSTILE]
    assert f'{_HOSTILE} · epochs' in page.table('Times are means')
    assert _HOSTILE in page.table('AP by keypoint')
    assert any(_HOSTILE in text for text in page.texts)


def test_a_config_that_does_not_parse_is_shown_as_it_is(tmp_path):
    write_run(tmp_path)
    for folder in tmp_path.glob('2026*'):
        (folder / 'vis_data' / 'config.py').write_text('a = (', encoding='utf-8')
    page = write(tmp_path)
    assert 'The config cannot be read' in page.text and 'a = (' in page.texts


def test_other_runs_checkpoints_do_not_finish_a_run(tmp_path):
    write_run(tmp_path)
    write_start(tmp_path, '20260103_000000', epoch_records(1))
    assert 'Not finished' in write(tmp_path).text


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match='has no training log'):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path)
    (tmp_path / 'report.html').mkdir()
    with pytest.raises(InputError, match=r'report\.html cannot be written'):
        write_report(tmp_path)
