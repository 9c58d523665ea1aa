import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from sapiens_plugin.core.streaming import host_adamw
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.moments import CHUNK
from sapiens_plugin.errors import InputError

MOMENT_DTYPES = ['float32', 'bfloat16', 'int8']
SHAPES = [(40, 30), (30,), (1,), (7, 3, 2, 2), (600, 500)]


def make_params() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups_of(params: list[nn.Parameter]) -> list[dict]:
    return [
        dict(params=params[:2], lr=3e-3, lr_scale=0.5, group_name='layer_0'),
        dict(params=params[2:], weight_decay=0.3, lr_scale=1.0, group_name='layer_1'),
    ]


def give_grads(params: list[nn.Parameter], step: int, dtype=torch.float32) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad_dtype = dtype
        param.grad = torch.randn(param.shape, generator=generator).to(dtype)


def host(params: list[nn.Parameter], **kwargs) -> HostAdamW:
    return HostAdamW(groups_of(params), **kwargs)


def train(optimizer: torch.optim.Optimizer, params: list, steps, **kwargs) -> None:
    for step in steps:
        give_grads(params, step, **kwargs)
        optimizer.step()


def assert_same(ours: list, theirs: list) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def assert_same_state(ours: dict, theirs: dict) -> None:
    assert ours['param_groups'] == theirs['param_groups']
    assert ours['state'].keys() == theirs['state'].keys()
    for key, tensors in ours['state'].items():
        assert tensors.keys() == theirs['state'][key].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs['state'][key][name]), (key, name)


# fp32: the stock optimizer, bit for bit


@pytest.mark.filterwarnings('ignore:Detected call of `lr_scheduler.step')
@pytest.mark.parametrize('deferred', [False, True])
@pytest.mark.parametrize('max_norm', [None, 5.0])
def test_fp32_equals_fused_adamw_bit_for_bit(deferred, max_norm):
    ours, theirs = make_params(), make_params()
    optimizer = host(ours, betas=(0.85, 0.99), eps=1e-7)
    stock = torch.optim.AdamW(
        groups_of(theirs), betas=(0.85, 0.99), eps=1e-7, fused=True
    )
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(o, max_lr=[1e-2, 2e-3], total_steps=26)
        for o in (optimizer, stock)
    ]
    for step in range(25):
        give_grads(ours, step)
        give_grads(theirs, step)
        factor = None
        if max_norm is not None:
            norm = nn.utils.get_total_norm([p.grad for p in ours])
            factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
            nn.utils.clip_grad_norm_(theirs, max_norm)
        stock.step()
        if deferred:
            optimizer.schedule(grad_factor=factor)
            for scheduler in schedulers:
                scheduler.step()
            for param in reversed(ours):
                optimizer.flush([param])
        else:
            if factor is not None:
                nn.utils.clip_grad_norm_(ours, max_norm)
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        assert_same(ours, theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for key in 'step', 'exp_avg', 'exp_avg_sq':
            assert torch.equal(optimizer.state[mine][key], stock.state[other][key])
    assert optimizer.state[ours[0]].keys() == stock.state[theirs[0]].keys()


def test_a_gradient_of_another_layout_is_taken_element_by_element():
    ours, theirs = make_params()[3], make_params()[3]
    theirs.grad = torch.randn(theirs.shape)
    ours.grad = theirs.grad.to(memory_format=torch.channels_last)
    HostAdamW([ours]).step()
    torch.optim.AdamW([theirs], fused=True).step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize('fused', [True, False])
def test_states_pass_to_the_stock_optimizer_and_back(fused):
    ours, theirs, again = make_params(), make_params(), make_params()
    optimizer, stock = host(ours), torch.optim.AdamW(groups_of(theirs), fused=fused)
    train(optimizer, ours, range(3))
    stock.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for mine, other in zip(ours, theirs, strict=True):
        other.data.copy_(mine.data)
    train(stock, theirs, range(3, 6))
    back = host(again)
    back.load_state_dict(stock.state_dict())
    for other, param in zip(theirs, again, strict=True):
        param.data.copy_(other.data)
    train(stock, theirs, range(6, 9))
    train(back, again, range(6, 9))
    train(optimizer, ours, range(3, 9))
    assert_same(again, theirs)
    assert_same(again, ours)


# Deferral


@pytest.mark.parametrize('moment_dtype', MOMENT_DTYPES)
def test_order_and_thread_of_flushing_change_nothing(moment_dtype):
    grad_dtype = torch.float32 if moment_dtype == 'float32' else torch.bfloat16
    results = []
    for how in ('step', 'all', 'reversed', 'thread'):
        params = make_params()
        optimizer = host(params, moment_dtype=moment_dtype)
        for step in range(4):
            give_grads(params, step, grad_dtype)
            if how == 'step':
                optimizer.step()
                continue
            optimizer.schedule()
            if how == 'all':
                optimizer.flush()
            elif how == 'reversed':
                for param in reversed(params):
                    optimizer.flush([param])
            else:
                worker = threading.Thread(target=optimizer.flush, args=(params[3:],))
                worker.start()
                optimizer.flush(params[:3])
                worker.join(timeout=30)
            assert not optimizer.has_pending
        results.append((params, optimizer.state_dict()))
    for params, state in results[1:]:
        assert_same(params, results[0][0])
        assert_same_state(state, results[0][1])


def test_schedule_takes_the_gradients_and_writes_nothing():
    params, before = make_params(), make_params()
    optimizer = host(params)
    assert not optimizer.has_pending
    give_grads(params, 0)
    optimizer.schedule()
    assert optimizer.has_pending
    assert all(param.grad is None for param in params)
    assert not optimizer.state
    assert_same(params, before)


def test_step_leaves_the_gradients_as_they_are():
    params, other = make_params(), make_params()
    give_grads(params, 0)
    give_grads(other, 0)
    host(params).step()
    assert_same([p.grad for p in params], [p.grad for p in other])


def scheduled_and_expected(**kwargs):
    """An optimizer with a step pending, its parameters, and what they will be."""
    expected, params = make_params(), make_params()
    give_grads(expected, 0)
    host(expected, **kwargs).step()
    optimizer = host(params, **kwargs)
    give_grads(params, 0)
    optimizer.schedule()
    return optimizer, params, expected


def test_settings_changed_after_schedule_count_for_later_steps_only():
    optimizer, params, expected = scheduled_and_expected()
    for group in optimizer.param_groups:
        group.update(lr=100.0, weight_decay=7.0, betas=(0.1, 0.2), eps=1.0)
    optimizer.flush()
    assert_same(params, expected)


def test_a_factor_changed_after_schedule_changes_nothing():
    params, expected = make_params(), make_params()
    give_grads(expected, 0)
    for param in expected:
        param.grad *= 0.25
    host(expected).step()
    factor = torch.tensor(0.25)
    optimizer = host(params)
    give_grads(params, 0)
    optimizer.schedule(grad_factor=factor)
    factor.fill_(9.0)
    optimizer.flush()
    assert_same(params, expected)


@pytest.mark.parametrize('set_to_none', [True, False])
def test_zero_grad_does_not_reach_what_is_pending(set_to_none):
    optimizer, params, expected = scheduled_and_expected()
    optimizer.zero_grad(set_to_none=set_to_none)
    optimizer.flush()
    assert_same(params, expected)


def test_flushing_again_applies_nothing_again():
    optimizer, params, expected = scheduled_and_expected()
    optimizer.flush(params[:2])
    optimizer.flush(params[:2] + params[:1])
    optimizer.flush()
    optimizer.flush()
    optimizer.flush(params)
    assert_same(params, expected)
    assert all(state['step'] == 1 for state in optimizer.state.values())


def test_scheduling_twice_applies_both_in_order():
    optimizer, params, expected = scheduled_and_expected()
    twice = make_params()
    train(host(twice), twice, range(2))
    give_grads(params, 1)
    optimizer.schedule()
    assert_same(params, expected)
    optimizer.flush()
    assert_same(params, twice)


def test_an_ordinary_step_applies_what_is_pending_first():
    optimizer, params, _ = scheduled_and_expected()
    twice = make_params()
    train(host(twice), twice, range(2))
    give_grads(params, 1)
    optimizer.step()
    assert_same(params, twice)


def test_state_dict_applies_what_is_pending_first():
    optimizer, params, expected = scheduled_and_expected()
    state = optimizer.state_dict()
    assert_same(params, expected)
    assert all(tensors['step'] == 1 for tensors in state['state'].values())


def test_loading_applies_what_is_pending_first():
    fresh = make_params()
    train(other := host(fresh), fresh, range(5))
    optimizer, params, expected = scheduled_and_expected()
    optimizer.load_state_dict(other.state_dict())
    assert_same(params, expected)
    assert not optimizer.has_pending
    assert all(state['step'] == 5 for state in optimizer.state.values())


def test_flush_waits_for_what_another_thread_has_begun(monkeypatch):
    optimizer, params, expected = scheduled_and_expected()
    begun, go_on = threading.Event(), threading.Event()
    update = host_adamw._update_whole

    def slow_update(*args):
        begun.set()
        assert go_on.wait(timeout=30)
        update(*args)

    monkeypatch.setattr(host_adamw, '_update_whole', slow_update)
    worker = threading.Thread(target=optimizer.flush, args=(params[:1],))
    worker.start()
    assert begun.wait(timeout=30)
    assert optimizer.has_pending
    timer = threading.Timer(0.1, go_on.set)
    timer.start()
    optimizer.flush(params[:1])
    assert_same(params[:1], expected[:1])
    worker.join(timeout=30)
    timer.join(timeout=30)


def test_what_was_applied_before_a_failure_is_not_applied_again(monkeypatch):
    optimizer, params, expected = scheduled_and_expected()
    update = host_adamw._update_whole

    def fail_at_third(param, *args):
        if param is params[2]:
            raise MemoryError
        update(param, *args)

    with monkeypatch.context() as patch:
        patch.setattr(host_adamw, '_update_whole', fail_at_third)
        with pytest.raises(MemoryError):
            optimizer.flush()
    optimizer.flush()
    assert not optimizer.has_pending
    assert_same(params[:2] + params[3:], expected[:2] + expected[3:])


def test_parameters_without_a_gradient_hold_no_state():
    params = make_params()
    optimizer = host(params, moment_dtype='int8')
    give_grads(params[:2], 0)
    optimizer.schedule()
    assert not optimizer.state
    optimizer.flush()
    assert list(optimizer.state) == params[:2]
    assert list(optimizer.state_dict()['state']) == [0, 1]


def test_workers_work_alone_and_leave_other_threads_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        pool, workers = host_adamw._pool.__wrapped__()
        with pool:
            counts = [pool.submit(torch.get_num_threads) for _ in range(6)]
            assert [count.result(timeout=30) for count in counts] == [1] * 6
        assert workers == torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as others:
            assert others.submit(torch.get_num_threads).result(timeout=30) == 3
    finally:
        torch.set_num_threads(before)


# Narrow gradients and moments


@pytest.mark.parametrize(
    'moment_dtype, bound', [('float32', 0.005), ('bfloat16', 0.01), ('int8', 0.04)]
)
def test_narrow_training_stays_near_fp32(moment_dtype, bound):
    params, exact, start = make_params(), make_params(), make_params()
    optimizer, reference = host(params, moment_dtype=moment_dtype), host(exact)
    for step in range(30):
        give_grads(params, step, torch.bfloat16)
        give_grads(exact, step)
        optimizer.schedule(grad_factor=0.5)
        reference.schedule(grad_factor=0.5)
    optimizer.flush()
    reference.flush()
    moved = (exact[-1] - start[-1]).norm()
    assert 0 < ((params[-1] - exact[-1]).norm() / moved).item() < bound


def test_fp32_moments_with_bf16_gradients_take_their_values():
    params, exact = make_params(), make_params()
    optimizer, reference = host(params), host(exact)
    for step in range(5):
        give_grads(params, step, torch.bfloat16)
        for mine, other in zip(params, exact, strict=True):
            other.grad = mine.grad.float()
        optimizer.step()
        reference.step()
    assert_same(params, exact)


def test_a_tensor_of_many_chunks_equals_its_parts():
    generator = torch.Generator().manual_seed(0)
    numel = 2 * CHUNK + 1000
    whole = torch.randn(numel, generator=generator)
    grad = torch.randn(numel, generator=generator)
    updated = {}
    for size in (numel, CHUNK):
        param = nn.Parameter(whole[:size].clone())
        optimizer = HostAdamW([param], moment_dtype='int8')
        for _ in range(3):
            param.grad = grad[:size].clone()
            optimizer.step()
        updated[size] = param.detach()
    assert torch.equal(updated[numel][:CHUNK], updated[CHUNK])
    assert not torch.equal(updated[numel][-1000:], whole[-1000:])


def test_an_error_in_a_worker_is_raised():
    param = nn.Parameter(torch.zeros(3))
    optimizer = HostAdamW([param], moment_dtype='int8')
    param.grad = torch.ones(3)
    optimizer.param_groups[0]['betas'] = (0.9, 'x')
    with pytest.raises(TypeError):
        optimizer.step()


# Saving and loading


@pytest.mark.parametrize('moment_dtype', MOMENT_DTYPES)
def test_a_resumed_run_equals_the_uninterrupted_one(moment_dtype, tmp_path):
    params, resumed = make_params(), make_params()
    optimizer = host(params, moment_dtype=moment_dtype)
    train(optimizer, params, range(5))
    path = tmp_path / 'state.pth'
    torch.save(dict(optimizer=optimizer.state_dict(), params=params), path)
    train(optimizer, params, range(5, 10))

    saved = torch.load(path, weights_only=True, mmap=True)
    again = host(resumed, moment_dtype=moment_dtype, lr=55.0)
    again.load_state_dict(saved['optimizer'])
    for param, value in zip(resumed, saved['params'], strict=True):
        param.data.copy_(value)
    train(again, resumed, range(5, 10))
    assert_same(resumed, params)
    assert_same_state(again.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize('target', MOMENT_DTYPES)
@pytest.mark.parametrize('source', MOMENT_DTYPES)
def test_every_moment_type_loads_into_every_other(source, target):
    params, others = make_params(), make_params()
    optimizer = host(params, moment_dtype=source)
    train(optimizer, params, range(5))
    other = host(others, moment_dtype=target)
    other.load_state_dict(optimizer.state_dict())

    read = host(make_params())  # both read as fp32, which is exact
    moments = []
    for each in (optimizer, other):
        read.load_state_dict(each.state_dict())
        moments.append(read.state_dict()['state'])
    for key, state in moments[0].items():
        assert moments[1][key]['step'] == 5
        for name in 'exp_avg', 'exp_avg_sq':
            exact, converted = state[name], moments[1][key][name]
            assert converted.shape == SHAPES[key]
            if source == target or target == 'float32':
                assert torch.equal(converted, exact)
            else:
                assert (converted - exact).norm() < 0.05 * exact.norm()
                assert torch.count_nonzero(converted) > 0
    train(other, others, range(5, 6))  # it goes on
    assert all(torch.isfinite(param).all() for param in others)


def test_loading_keeps_none_of_the_tensors_given():
    for moment_dtype in MOMENT_DTYPES:
        params = make_params()
        optimizer = host(params, moment_dtype=moment_dtype)
        train(optimizer, params, range(2))
        given = copy.deepcopy(optimizer.state_dict())
        other = host(make_params(), moment_dtype=moment_dtype)
        other.load_state_dict(given)
        for tensors in given['state'].values():
            for tensor in tensors.values():
                tensor.zero_()
        given['param_groups'][0]['lr'] = 0
        assert_same_state(other.state_dict(), optimizer.state_dict())


def test_loading_drops_the_state_of_parameters_the_saved_run_had_not_updated():
    params, others = make_params(), make_params()
    optimizer, other = host(params), host(others)
    give_grads(params[:2], 0)
    optimizer.step()
    train(other, others, range(2))
    other.load_state_dict(optimizer.state_dict())
    assert list(other.state) == others[:2]


def test_stock_adamw_does_not_take_int8_moments_for_its_own():
    params, others = make_params(), make_params()
    optimizer = host(params, moment_dtype='int8')
    train(optimizer, params, range(1))
    stock = torch.optim.AdamW(groups_of(others))
    stock.load_state_dict(optimizer.state_dict())
    with pytest.raises(KeyError, match='exp_avg'):
        train(stock, others, range(1))


def test_mmengine_builds_it_from_a_config():
    from sapiens_plugin.registry import OPTIMIZERS

    optimizer = OPTIMIZERS.build(
        dict(
            type='sapiens_plugin.HostAdamW',
            params=groups_of(make_params()),
            lr=5e-4,
            betas=(0.9, 0.99),
            weight_decay=0.1,
            moment_dtype='int8',
        )
    )
    first, second = optimizer.param_groups
    assert (first['lr'], first['weight_decay'], first['lr_scale']) == (3e-3, 0.1, 0.5)
    assert (second['lr'], second['weight_decay']) == (5e-4, 0.3)
    assert optimizer.moment_dtype == 'int8'


# Bad input


def test_an_unknown_moment_type_is_refused():
    with pytest.raises(InputError, match="moment_dtype='int4'"):
        host(make_params(), moment_dtype='int4')


def test_the_moment_type_can_be_set_until_there_are_moments():
    params, others = make_params(), make_params()
    optimizer, expected = host(params), host(others, moment_dtype='int8')
    with pytest.raises(InputError, match='int4'):
        optimizer.moment_dtype = 'int4'
    assert optimizer.moment_dtype == 'float32'
    optimizer.moment_dtype = 'int8'
    train(optimizer, params, range(2))
    train(expected, others, range(2))
    assert_same(params, others)
    assert_same_state(optimizer.state_dict(), expected.state_dict())
    optimizer.moment_dtype = 'int8'
    with pytest.raises(InputError, match=r'are int8 already.*float32'):
        optimizer.moment_dtype = 'float32'


@pytest.mark.parametrize(
    'param, words',
    [
        (torch.zeros(2, 3, dtype=torch.bfloat16), 'bfloat16 on cpu'),
        (torch.zeros(2, 3, device='meta'), 'on meta'),
        (torch.zeros(3, 2).t(), 'not contiguous'),
    ],
)
def test_parameters_it_cannot_update_are_refused_by_name(param, words):
    with pytest.raises(InputError, match=rf'head\.weight, \(2, 3\).*{words}'):
        HostAdamW([('head.weight', nn.Parameter(param))])


def state_of(optimizer: torch.optim.Optimizer) -> dict:
    params = [p for group in optimizer.param_groups for p in group['params']]
    train(optimizer, params, range(1))
    return optimizer.state_dict()


def state_of_one_group():
    return state_of(HostAdamW(make_params()))


def state_of_a_smaller_group():
    params = make_params()
    return state_of(HostAdamW([dict(params=params[:1]), dict(params=params[1:])]))


def state_of_another_shape():
    return state_of(host([nn.Parameter(torch.zeros(30, 40)), *make_params()[1:]]))


def state_with_amsgrad():
    return state_of(torch.optim.AdamW(groups_of(make_params()), amsgrad=True))


def state_of_sgd():
    return state_of(torch.optim.SGD(groups_of(make_params()), momentum=0.9))


@pytest.mark.parametrize(
    'make_state, words',
    [
        (state_of_one_group, '1 parameter groups.*has 2'),
        (state_of_a_smaller_group, 'layer_0 has 1 parameters.*2 in this'),
        (state_of_another_shape, r'Parameter 0 is \(40, 30\).*\(30, 40\)'),
        (state_with_amsgrad, 'layer_0.*amsgrad=True'),
        (state_of_sgd, "no 'exp_avg'.*momentum_buffer.*not the state of an AdamW"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(make_state, words):
    params = make_params()
    optimizer = host(params)
    train(optimizer, params, range(2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InputError, match=words):
        optimizer.load_state_dict(make_state())
    assert_same_state(optimizer.state_dict(), before)


def test_arguments_of_another_optimizer_are_named():
    with pytest.raises(
        InputError, match=r'does not know fused, amsgrad.*_delete_=True'
    ):
        HostAdamW([nn.Parameter(torch.zeros(3))], fused=True, amsgrad=False)
