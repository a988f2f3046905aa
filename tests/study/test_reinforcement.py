"""Q-learning of CartPole: memory, loss, target network, episodes, and a training by the config."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from torch import nn

from mmws.study import Cell
from mmws.study.reinforcement import DQN, CartPoleMemory, make_cart_pole
from mmws.visualization.report import read_history
from tests.helpers.paths import CONFIGS
from tests.helpers.studies import train_cell


@pytest.fixture
def gymnasium():
    return pytest.importorskip('gymnasium', reason='Gymnasium is not installed')


def test_without_gymnasium_one_line_says_what_to_install(monkeypatch):
    # Bug: a traceback of an import deep in the data loader.
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == 'gymnasium':
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(ImportError, match=r'pip install "mmws\[gym\]"'):
        make_cart_pole()


def test_the_memory_holds_what_was_played_and_forgets_the_oldest(gymnasium):
    # Bug: an episode's last state is joined to the first of the next one, or places are mixed up.
    np.random.seed(0)
    memory = CartPoleMemory(capacity=60, first=5)
    for _ in range(50):
        memory.play(1)  # the pole falls after some ten steps of the same action
    before, after = memory.transitions[:55, :4], memory.transitions[:55, 4:8]
    fell = memory.transitions[:55, 10].bool()
    assert 2 <= fell.sum() <= 10
    follows = (before[1:] == after[:-1]).all(1)
    assert torch.equal(follows, ~fell[:-1])
    assert (memory.transitions[5:55, 8] == 1).all()
    first = memory[0]['inputs']
    assert torch.equal(memory[55]['inputs'], first)  # beyond what has been played
    for _ in range(10):
        memory.play(0)
    assert not torch.equal(memory[0]['inputs'], first)
    rows = [item['inputs'] for item in memory.__getitems__([3, 60 + 3])]
    assert torch.equal(rows[0], rows[1])
    with pytest.raises(ValueError, match='first must be from 1 to capacity=10'):
        CartPoleMemory(capacity=10, first=11)


def test_the_loss_is_that_of_q_learning():
    # Bug: the value after the end of an episode counts, or gradients reach the target network.
    torch.manual_seed(0)
    model = DQN(channels=8, discount=0.9).double().eval()
    transitions = torch.randn(6, 11).double()
    transitions[:, 8] = torch.tensor([0, 1, 0, 1, 0, 1])
    transitions[:, 9] = 1
    transitions[:, 10] = torch.tensor([0, 0, 0, 1, 1, 0])
    values, _ = model(transitions[:, :4])
    _, following = model(transitions[:, 4:8])
    loss = 0.0
    for i, row in enumerate(transitions):
        wanted = 1 + (0 if row[10] else 0.9 * following[i].max().item())
        error = abs(values[i, int(row[8])].item() - wanted)
        loss += (error**2 / 2 if error < 1 else error - 0.5) / 6
    found = model(transitions, mode='loss')['loss']
    assert found.item() == pytest.approx(loss)
    found.backward()
    assert all(p.grad is not None for p in model.network.parameters())
    assert all(p.grad is None for p in model.target.parameters())


def test_an_episode_counts_its_rewards(gymnasium):
    # Bug: episodes that end at different times are mixed up, or not all of them end.
    model = DQN(channels=8).eval()
    env = gymnasium.make('CartPole-v1')
    scores = [s['score'] for s in model(torch.tensor([3, 8, 1]), mode='predict')]
    for seed, score in zip((3, 8, 1), scores, strict=True):
        state, ended, steps = env.reset(seed=seed)[0], False, 0
        while not ended:
            action = model.network(torch.from_numpy(state)[None]).argmax().item()
            state, _, fell, timed_out, _ = env.step(action)
            ended, steps = fell or timed_out, steps + 1
        assert score == steps


@pytest.mark.slow
def test_a_form_trains_by_the_config(gymnasium, tmp_path):
    # Bug: nothing is played, the target network stays as it was, or is trained itself.
    cell = Cell('cartpole', 'WN', 100, 101, 0.001, seed=0)
    model = train_cell(CONFIGS / 'study' / 'claims.py', cell, tmp_path)
    assert type(model.network[0]).__name__ == type(model.target[0]).__name__ == 'LinearWN'
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
    # It was renewed before the last of 101 updates, which had a rate of almost 0.
    for online, target in zip(model.network.parameters(), model.target.parameters(), strict=True):
        assert not torch.equal(online, target)
        torch.testing.assert_close(online, target, rtol=0.01, atol=0.01)
    evaluation = read_history(tmp_path).evaluations[-1]
    assert 8 <= evaluation['mean_return'] <= 500
