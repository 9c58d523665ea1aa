import json
import random
import string
import tracemalloc

import pytest

from sapiens_plugin.core.utils.json_stream import read_lists
from sapiens_plugin.errors import InputError


def write(tmp_path, text):
    path = tmp_path / 'file.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8'))
    return path


def read(path, *names, **options):
    return list(read_lists(path, *(names or ('a', 'b')), **options))


def random_value(rng, depth):
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False, float('inf'), float('-inf')])
    if kind == 1:
        return rng.randrange(-(10 ** rng.randrange(1, 25)), 10 ** rng.randrange(1, 25))
    if kind in (2, 3):
        return rng.uniform(-1, 1) * 10 ** rng.randrange(-30, 30)
    if kind in (4, 5):
        chars = string.printable + 'é–😀\ud800"\\'
        return ''.join(rng.choice(chars) for _ in range(rng.randrange(30)))
    if kind in (6, 7):
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return random_object(rng, depth - 1)


def random_object(rng, depth):
    return {
        f'{i}{random_value(rng, 0)}': random_value(rng, depth)
        for i in range(rng.randrange(5))
    }


def random_text(rng):
    content = {
        'a': [random_object(rng, 2) for _ in range(rng.randrange(5))],
        'b': [random_object(rng, 2) for _ in range(rng.randrange(5))],
        'c': random_value(rng, 3),
        'd': random_value(rng, 3),
    }
    names = rng.sample(sorted(content), 4)
    return json.dumps(
        {name: content[name] for name in names},
        indent=rng.choice([None, None, 1, 4]),
        # A lone surrogate can only be written as an escape.
        ensure_ascii='\\ud800' in json.dumps(content) or rng.random() < 0.5,
    )


def whole(text):
    """What the standard library says is in the lists."""

    def once(pairs):
        names = [name for name, _ in pairs]
        if pairs and any(names.count(name) > 1 for name in ('a', 'b')):
            pairs = [('twice', names), *pairs]
        return dict(pairs)

    content = json.loads(text, object_pairs_hook=once)
    if not isinstance(content, dict):
        raise ValueError(content)
    if 'twice' in content:
        raise ValueError(content)
    found = []
    for name in content:
        if name in ('a', 'b'):
            if not isinstance(content[name], list):
                raise ValueError(name)
            for index, element in enumerate(content[name]):
                if not isinstance(element, dict):
                    raise ValueError(element)
                found.append((name, index, element))
    if not {'a', 'b'} <= content.keys():
        raise ValueError(content)
    return found


@pytest.mark.parametrize('seed', range(8))
def test_reads_and_refuses_just_what_the_standard_library_does(tmp_path, seed):
    rng = random.Random(seed)
    outcomes = {'read': 0, 'refused': 0}
    for _ in range(60):
        text = random_text(rng)
        if rng.random() < 0.6:  # break it, mostly
            at = rng.randrange(len(text))
            text = rng.choice(
                [
                    text[:at],
                    text[:at] + rng.choice('{}[],:"\\0-e x') + text[at:],
                    text[:at] + text[at + 1 :],
                    text + rng.choice(['}', ' ', 'x']),
                ]
            )
        path = write(tmp_path, text)
        window = rng.choice([1, 2, 7, 40, 1 << 20])
        try:
            expected = whole(text)
        except ValueError:
            outcomes['refused'] += 1
            with pytest.raises(InputError, match=r'file\.json'):
                read(path, window=window)
        else:
            outcomes['read'] += 1
            # Text, since NaN is not itself.
            assert repr(read(path, window=window)) == repr(expected)
    assert min(outcomes.values()) > 5


def test_numbers_are_not_cut_at_the_edge_of_the_window(tmp_path):
    numbers = [123456789, 1.5e-07, -2.5, 12e10, True, None, 'é\\"', float('inf')]
    path = write(tmp_path, json.dumps({'a': [{'n': numbers}], 'x': 1.25, 'b': []}))
    for window in range(1, 80):
        assert read(path, window=window) == [('a', 0, {'n': numbers})]


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', r'cut short: it ends at line 1, column 1'),
        ('[{"a": []}]', r'an object with lists'),
        ('{"a": {"x": 1}, "b": []}', r'"a" is not a list; there is \'\{"x"'),
        ('{"a": [{}, 7], "b": []}', r'line 1, column 12: a\[1\] is not an object'),
        ('{"a": [{}, null], "b": []}', r'a\[1\] is not an object'),
        ('{"a": []}', r'has no "b"'),
        ('{}', r'has no "a" and "b"'),
        ('{"a": [], "b": [], "a": []}', r'"a" is there for the second time'),
        ('{"a": [{"x": 1}', r'cut short: it ends at line 1, column 16'),
        ('{"a":\n[{"x": 1},\n  {"y": 1 2}]}', r'line 3, column 11: .*\'2\}\]\}'),
        ('{"a":\n[{"x":\n1},\n{"y": tru}]}', r'line 4, column 7: Expecting value'),
        ('{"a": [], "b": []} x', r'line 1, column 20: there is more after the end'),
        ('{"a": [], "b": [], }', r'a key was looked for'),
        ('{"a": [{"x": "' + 'y' * 100, r'Unterminated string'),
        ('{"a": [{"x": ' + '9' * 5000 + '}]}', r'Exceeds the limit'),
        ('{"a": [{"x": ' + '[' * 200_000, r'recursion'),
        (b'{"a": [{"x": "\xff"}]}', r'is not JSON in UTF-8'),
        (b'\xef\xbb\xbf{"a": [], "b": []}', r'line 1, column 1'),
        (b'PK\x03\x04\xff\xff', r'is not JSON in UTF-8'),
    ],
)
@pytest.mark.parametrize('window', [3, 1 << 20])
def test_says_where_a_file_is_broken(tmp_path, text, says, window):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=says) as caught:
        read(path, window=window)
    assert str(path) in str(caught.value)


def test_says_that_a_file_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match='No such file'):
        read(tmp_path / 'none.json')
    with pytest.raises(InputError, match='cannot be read'):
        read(tmp_path)


def test_memory_is_that_of_a_window(tmp_path):
    element = json.dumps({'counts': 'x' * 1200, 'image_id': 7})
    text = '{"a": [' + ','.join([element] * 20_000) + '], "b": []}'
    path = write(tmp_path, text)
    tracemalloc.start()
    count = sum(1 for _ in read_lists(path, 'a', 'b', window=1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert len(text) > 20e6
    assert peak < 2e6


def test_a_break_near_the_start_of_a_large_file_is_found_at_once(tmp_path):
    text = '{"a": [{"x": nothing},' + '{"x": 1},' * 500_000 + '{}], "b": []}'
    path = write(tmp_path, text)
    tracemalloc.start()
    with pytest.raises(InputError, match='column 14'):
        read(path, window=1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
