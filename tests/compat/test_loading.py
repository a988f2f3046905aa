import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from mmengine.utils import digit_version

from mmws.compat import CheckpointError, read_checkpoint

pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6.0'), reason='does not check by default'
)


def test_the_log_of_a_checkpoint_loads_with_the_check_on(tmp_path):
    # Bug: --resume stops at "Unsupported global: mmengine.logging.history_buffer.HistoryBuffer".
    log = HistoryBuffer([0.5, 0.25], [1, 1])
    torch.save({'log': log, 'seed': np.int64(3), 'time': np.float32(0.5)}, tmp_path / 'x.pth')
    # As MMEngine loads on some versions; on leaving, PyTorch forgets the class for everybody.
    with torch.serialization.safe_globals([HistoryBuffer]):
        pass
    loaded = read_checkpoint(tmp_path / 'x.pth')
    assert loaded['log'].mean() == log.mean()
    assert loaded['log'].statistics('max') == 0.5
    assert (loaded['seed'], loaded['time']) == (3, 0.5)


class Attribute:
    """Pickled as `getattr(owner, name)`."""

    def __init__(self, owner, name):
        self.arguments = (owner, name)

    def __reduce__(self):
        return getattr, self.arguments


@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile'), (dict, 'pop')]
)
def test_a_file_gets_no_other_attribute(tmp_path, owner, name):
    # Bug: getattr itself is allow-listed, and a checkpoint from elsewhere runs what it likes.
    torch.save({'log': Attribute(owner, name)}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth cannot be read \(UnpicklingError\)'):
        read_checkpoint(tmp_path / 'x.pth')


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_a_file_that_fails_the_check_is_not_executed_by_mmengine_either(tmp_path):
    # Bug: onedl-mmengine loads again without the check, and runs what a downloaded file says.
    torch.save(dict(state_dict={}, meta=Trap(tmp_path / 'trap')), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth cannot be read \(UnpicklingError\)'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'x.pth'))
    assert not (tmp_path / 'trap').exists()
