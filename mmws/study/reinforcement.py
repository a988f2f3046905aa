"""Deep Q-learning of CartPole: memory, playing, model and metric of a study's task.

The environment is Gymnasium's ``CartPole-v1``: a state is 4 numbers, one of 2 actions pushes the
cart to the left or to the right, and each step brings a reward of 1 until the pole falls, at the
latest after 500 steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmws.checkpoints.guard import unwrap
from mmws.registry import DATASETS, HOOKS, METRICS, MODELS

STATE, ACTIONS = 4, 2
PARTS = (STATE, STATE, 1, 1, 1)  # of a transition: state before and after, action, reward, fell


def make_cart_pole() -> Any:
    """Return Gymnasium's ``CartPole-v1``.

    Raises:
        ImportError: if Gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError:
        raise ImportError('CartPole needs Gymnasium: run `pip install "mmws[gym]"`') from None
    return gymnasium.make('CartPole-v1')


@DATASETS.register_module()
class CartPoleMemory(Dataset):
    """The latest transitions of an environment that is played while a model trains on them.

    Items are dicts with ``inputs`` (11,), float32: the state before, the state after, the action,
    the reward, and 1 if the pole fell, else 0. An index beyond what has been played counts from
    the beginning again.

    The memory belongs to the process that plays: a data loader must have no workers. It is not in
    checkpoints, so a training that is resumed begins with a new one.

    Args:
        capacity: Transitions that are kept; a new one takes the place of the oldest.
        first: Transitions that random actions play before the training.

    Raises:
        ImportError: if Gymnasium is not installed.
        ValueError: if ``first`` is not between 1 and ``capacity``.
    """

    def __init__(self, capacity: int, first: int) -> None:
        if not 1 <= first <= capacity:
            raise ValueError(f'first must be from 1 to capacity={capacity}, got {first}')
        self.env = make_cart_pole()
        self.transitions = torch.zeros(capacity, sum(PARTS))
        self.played = 0
        # The run seeds NumPy's generator, and this seed also determines all later episodes.
        self.state = self._reset(int(np.random.randint(2**31)))
        for _ in range(first):
            self.play(np.random.randint(ACTIONS))

    def play(self, action: int) -> None:
        """Play one step from :attr:`state` (4,), and remember it."""
        observed, reward, fell, timed_out, _ = self.env.step(action)
        following = torch.from_numpy(observed)
        numbers = torch.tensor([float(action), float(reward), float(fell)])
        place = self.played % len(self)
        self.transitions[place] = torch.cat([self.state, following, numbers])
        self.played += 1
        self.state = self._reset() if fell or timed_out else following

    def _reset(self, seed: int | None = None) -> Tensor:
        return torch.from_numpy(self.env.reset(seed=seed)[0])

    def __len__(self) -> int:
        return len(self.transitions)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """Return the items of a whole batch, which a data loader asks for."""
        places = torch.tensor(indices) % min(self.played, len(self))
        return [dict(inputs=row) for row in self.transitions[places]]


@DATASETS.register_module()
class CartPoleEpisodes(Dataset):
    """The seeds of the episodes that evaluate a model: items are dicts with ``inputs``, int64.

    Args:
        episodes: Number of episodes.
    """

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return self.episodes

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.tensor(index))


@HOOKS.register_module()
class PlayHook(Hook):
    """Play the environment of :class:`CartPoleMemory` with the model, after each training step.

    An action is random with a probability that falls from 1 to ``random_at_last``, in a straight
    line over the first part of the training; otherwise it is the model's best.

    Args:
        steps: Steps of the environment after each training step.
        random_at_last: Probability of a random action after the first part.
        first_part: Share of the training over which the probability falls.
    """

    def __init__(self, steps: int, random_at_last: float = 0.05, first_part: float = 0.5) -> None:
        self.steps = steps
        self.random_at_last = random_at_last
        self.first_part = first_part

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        model: Any = unwrap(runner.model)
        memory = runner.train_dataloader.dataset
        progress = min(1.0, (runner.iter + 1) / (self.first_part * runner.max_iters))
        random = 1 - progress * (1 - self.random_at_last)
        for _ in range(self.steps):
            if np.random.random() < random:
                memory.play(np.random.randint(ACTIONS))
            else:
                memory.play(int(model.best_actions(memory.state[None])))


@MODELS.register_module()
class DQN(BaseModel):
    r"""A deep Q-network for CartPole, with Batch Normalization.

    The network Q estimates the discounted sum of the rewards after each action; its target network
    :math:`\hat{Q}` is a copy that is renewed every ``renew`` updates. The loss is Huber's, of

    .. math:: Q(s, a) - r - \gamma \max_{a'} \hat{Q}(s', a')

    with 0 in place of the maximum where the pole fell (Mnih et al., Human-level control through
    deep reinforcement learning, 2015). Batch Normalization learns with the statistics of the batch;
    actions and targets are computed with running statistics.

    Args:
        channels: Units of each hidden layer.
        layers: Number of hidden layers.
        discount: :math:`\gamma`.
        renew: Updates between two renewals of the target network.
    """

    def __init__(
        self, channels: int = 64, layers: int = 2, discount: float = 0.99, renew: int = 100
    ) -> None:
        super().__init__(BaseDataPreprocessor())
        parts: list[nn.Module] = []
        for number in range(layers):
            units = STATE if number == 0 else channels
            parts += [nn.Linear(units, channels, bias=False), nn.BatchNorm1d(channels), nn.ReLU()]
        self.network = nn.Sequential(*parts, nn.Linear(channels, ACTIONS))
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.discount = discount
        self.renew = renew
        self.updates = 0

    def train(self, mode: bool = True) -> DQN:
        super().train(mode)
        self.target.eval()
        return self

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        if self.updates % self.renew == 0:
            self.target.load_state_dict(self.network.state_dict())
        self.updates += 1
        return super().train_step(data, optim_wrapper)

    @torch.no_grad()
    def best_actions(self, states: Tensor) -> Tensor:
        """Return the action (N) with the highest estimate in each state (N, 4)."""
        was_training = self.network.training
        self.network.eval()
        actions = self.network(states).argmax(1)
        self.network.train(was_training)
        return actions

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Any:
        """Return what ``mode`` asks for.

        Args:
            inputs: ``'loss'``: transitions (N, 11) of :class:`CartPoleMemory`; ``'predict'``: seeds
                (N) of episodes; ``'tensor'``: states (N, 4).
            mode: ``'loss'`` returns a dict with the loss; ``'predict'``, after an episode with the
                best actions for each seed, a dict with its ``score``, the sum of rewards, for each;
                ``'tensor'``, estimates of the network and of the target network, each (N, 2).
        """
        if mode == 'tensor':
            return self.network(inputs), self.target(inputs)
        if mode == 'predict':
            return [dict(score=score) for score in self._episodes(inputs.tolist())]
        before, following, action, reward, fell = inputs.split(PARTS, 1)
        estimate = self.network(before).gather(1, action.long())
        with torch.no_grad():
            best = self.target(following).amax(1, keepdim=True)
        wanted = reward + self.discount * (1 - fell) * best
        return dict(loss=F.smooth_l1_loss(estimate, wanted))

    def _episodes(self, seeds: list[int]) -> list[float]:
        """Play an episode for each seed, all at a time, and return the sums of rewards."""
        envs = [make_cart_pole() for _ in seeds]
        states = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
        scores = [0.0] * len(seeds)
        playing = list(range(len(seeds)))
        while playing:
            batch = torch.from_numpy(np.stack([states[i] for i in playing]))
            still = []
            for i, action in zip(playing, self.best_actions(batch).tolist(), strict=True):
                states[i], reward, fell, timed_out, _ = envs[i].step(action)
                scores[i] += float(reward)
                if not (fell or timed_out):
                    still.append(i)
            playing = still
        return scores


@METRICS.register_module()
class MeanReturn(BaseMetric):
    """The mean over episodes of the sum of rewards, ``mean_return``."""

    default_prefix = 'episodes'

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        self.results += [sample['score'] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(mean_return=float(np.mean(results)))
