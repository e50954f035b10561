import pytest
import torch

from mmat.engine.loss_balance import LossBalance


def losses(task, **heads):
    values = {'loss_task': task, **{f'loss_{name}': value for name, value in heads.items()}}
    return {key: torch.tensor(float(value)) for key, value in {'loss': sum(values.values()), **values}.items()}


def test_a_head_is_reported_once_at_the_end_of_an_interval():
    balance = LossBalance(['at'], interval=2)
    # Means of 25 and 2: 12.5 times.
    assert balance.update(losses(3, at=10)) == []
    warning, = balance.update(losses(1, at=40))
    assert warning.startswith('at: ') and '25' in warning and ' 12 times' in warning and '(2)' in warning
    assert balance.update(losses(1, at=40)) == balance.update(losses(1, at=40)) == []


@pytest.mark.parametrize('value, count', [(9.9, 0), (10.1, 1)])
def test_the_limit_is_ten(value, count):
    assert len(LossBalance(['at'], interval=1).update(losses(1, at=value))) == count


def test_labels_of_a_head_are_summed_and_other_heads_are_not():
    balance = LossBalance(['at', 'at_2'], interval=1)
    values = losses(1, **{'at.group0': 6, 'at.group1': 6, 'at_2.group0': 7})
    assert [warning.split(':')[0] for warning in balance.update(values)] == ['at']


def test_the_task_is_taken_before_its_weight():
    values = {**losses(0.1, kd=5), 'task': torch.tensor(1.)}
    assert LossBalance(['kd'], interval=1).update(values) == []
    assert LossBalance(['kd'], interval=1).update(losses(0.1, kd=5))


def test_a_run_is_warned(distiller_config, make_runner, caplog):
    at = dict(type='mmat.ActivationATHead', pairs=[(0, 0)], weight=1e9)
    runner = make_runner(distiller_config(at_heads=[at]))
    messages = []
    runner.logger.warning = lambda message, *args: messages.append(message)
    runner.train()
    assert [message.split(':')[0] for message in messages if 'times the loss' in message] == ['at']
