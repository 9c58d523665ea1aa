"""The report in a real browser, in light and dark, on a screen and on a telephone.

Runs where Chromium, Chrome or Edge is installed (``apt-get install chromium``), or
where the environment variable ``BROWSER_FOR_TESTS`` names one.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from small_run import make_plan, write_run, write_validation

from sapiens_plugin.workbench.report.report import write_report

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
_NAMES += ('chrome', 'msedge', 'microsoft-edge')
_SCHEMES = {'dark': 0, 'light': 1}  # as Blink counts them
# Looks at the page in a frame as wide as a screen, and says what it sees.
_LOOK = """<!DOCTYPE html><body style="margin:0">
<iframe src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<pre></pre>
<script>
function channels(color) {
  const found = color.match(/[0-9.]+/g).map(Number);
  return found.length < 4 ? [...found, 1] : found;
}
function luminance(color) {
  const [r, g, b] = channels(color).map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
onload = () => {
  const frame = document.querySelector('iframe');
  const page = frame.contentDocument, view = frame.contentWindow;
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = view.getComputedStyle(e).backgroundColor;
      if (channels(color)[3] === 1) return color;
    }
    return 'none';
  };
  const texts = [...page.body.querySelectorAll('*')].filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&
         !['TITLE', 'title'].includes(e.tagName) && !e.closest('details > pre'));
  const seen = texts.map(e => {
    const style = view.getComputedStyle(e);
    const color = e instanceof view.SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(color), luminance(ground(e))];
    return {text: e.textContent.slice(0, 40), size: parseFloat(style.fontSize) *
              (e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width /
                                   e.ownerSVGElement.viewBox.baseVal.width : 1),
            contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)};
  });
  document.querySelector('pre').textContent = JSON.stringify({
    ground: ground(page.body), wide: page.documentElement.scrollWidth, seen,
    people: page.querySelectorAll('svg.person image').length,
    curves: [...page.querySelectorAll('svg.chart')].map(
      svg => svg.getBoundingClientRect().width),
  });
};
</script>"""


@pytest.fixture(scope='module')
def browser() -> str:
    given = os.environ.get('BROWSER_FOR_TESTS')
    found = given or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f'no browser is installed: none of {", ".join(_NAMES)}')
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('browser')
    write_run(folder)
    write_validation(folder, tmp_path_factory.mktemp('data'))
    (folder / 'plan.json').write_text(json.dumps(make_plan()), encoding='utf-8')
    write_report(folder)
    return folder


def call(browser: str, profile: Path, scheme: str, *arguments: str) -> str:
    done = subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',  # refused to root otherwise
            '--disable-gpu',
            '--disable-dev-shm-usage',
            '--hide-scrollbars',
            f'--user-data-dir={profile}',
            f'--blink-settings=preferredColorScheme={_SCHEMES[scheme]}',
            '--allow-file-access-from-files',
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding='utf-8',
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize('scheme', _SCHEMES)
@pytest.mark.parametrize('width', [360, 1200])
def test_everything_can_be_read(browser, folder, tmp_path, scheme, width):
    look = folder / f'look_{scheme}_{width}.html'
    look.write_text(_LOOK.replace('WIDTH', str(width)), encoding='utf-8')
    page = call(
        browser,
        tmp_path,
        scheme,
        '--virtual-time-budget=10000',
        '--window-size=1300,1000',
        '--dump-dom',
        look.as_uri(),
    )
    report = re.search(r'<pre>(.+?)</pre>', page, re.DOTALL)[1]
    found = json.loads(report.replace('&lt;', '<').replace('&amp;', '&'))
    assert found['wide'] == width, 'the page is wider than the screen'
    red, green, blue = map(int, re.findall(r'\d+', found['ground'])[:3])
    brightness = (red + green + blue) / 3
    assert brightness > 230 if scheme == 'light' else brightness < 40
    assert len(found['seen']) > 150
    # WCAG asks 4.5 of small text.
    assert [text for text in found['seen'] if text['contrast'] < 4.5] == []
    assert [text for text in found['seen'] if text['size'] < 9] == []
    assert found['people'] == 18
    assert len(found['curves']) == 3 and min(found['curves']) > 300


@pytest.mark.parametrize('scheme', _SCHEMES)
def test_a_picture_of_the_page_is_not_blank(browser, folder, tmp_path, scheme):
    picture = tmp_path / 'page.png'
    call(
        browser,
        tmp_path / 'profile',
        scheme,
        '--window-size=1200,1000',
        f'--screenshot={picture}',
        (folder / 'report.html').as_uri(),
    )
    with Image.open(picture) as image:
        colors = image.convert('RGB').getcolors(2**24)
    (most, ground), (_, accent) = (
        max(colors),
        max(c for c in colors if c[1][2] > c[1][0] + 60),
    )
    assert most < 0.98 * image.width * image.height
    assert (sum(ground) > 700) == (scheme == 'light')
    assert accent == ((11, 92, 173) if scheme == 'light' else (108, 178, 247))
