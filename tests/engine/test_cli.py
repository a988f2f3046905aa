"""The language of messages: arguments in the library, options on the command line."""

import ast
import re

import pytest
import torch

from mmws.data.errors import DataError
from mmws.engine import cli
from mmws.engine.cli import as_options, one_line_errors, parse_train_args, prepare_train
from tests.helpers.paths import ROOT

LIBRARY = sorted(
    path
    for path in (ROOT / 'mmws').rglob('*.py')
    # These write to a terminal; the console proposes commands.
    if path.relative_to(ROOT / 'mmws').as_posix()
    not in ('engine/cli.py', 'engine/launch.py', 'engine/console.py')
    and '.mim' not in path.parts
)
# A message that tells a command to run has the options of that command.
COMMAND = re.compile(
    r'pip (un)?install|--no-binary|python tools/|^ --(boxes|root|splits|data|only|report) ?$'
    r'|var\(--[a-z]+\)'  # a property of a style sheet
)


def strings(path):
    """Yield the texts in a file, without docstrings."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in statements:
            yield node.value


def options():
    """Return the options of all tools, as they are declared."""
    declared = [*(ROOT / 'tools').rglob('*.py'), ROOT / 'mmws' / 'engine' / 'cli.py']
    return {text for path in declared for text in strings(path) if re.fullmatch('--[a-z-]+', text)}


@pytest.mark.parametrize(
    ('message', 'printed'),
    [
        ('give another `out_dir`', 'give another --out-dir'),
        ('give `force=True` to overwrite it', 'give --force to overwrite it'),
        ('`launcher` slurm needs CUDA', '--launcher slurm needs CUDA'),
        ('pass `cfg_options` model.depth=3', 'pass --cfg-options model.depth=3'),
        ('run `python tools/doctor.py`', 'run `python tools/doctor.py`'),
        ('`pip install "mmws[eval]"`', '`pip install "mmws[eval]"`'),
        ('`_base_` is missing', '`_base_` is missing'),
        ('no argument', 'no argument'),
    ],
)
def test_arguments_are_printed_as_options_and_nothing_else_is(message, printed):
    assert as_options(message) == printed


@pytest.mark.parametrize('error', [ValueError, FileExistsError])
def test_a_tool_tells_a_mistake_in_its_own_words(error):
    with (
        pytest.raises(SystemExit, match=r'^error: give --force or another --out-dir$'),
        one_line_errors(),
    ):
        raise error('give `force=True`\nor another `out_dir`')


def test_every_problem_in_the_data_is_told_in_the_words_of_the_tool():
    with pytest.raises(SystemExit, match=r'^error: a --base\nerror: an --out$'), one_line_errors():
        raise DataError(['a `base`', 'an `out`'])


def test_the_library_does_not_name_options():
    # Bug: a function says `give --force` to somebody who calls it from Python.
    found = [
        f'{path.relative_to(ROOT)}: {text!r}'
        for path in LIBRARY
        for text in strings(path)
        if re.search(r'(?<![\w-])--[a-z]', text) and not COMMAND.search(text)
    ]
    assert found == []


def test_every_argument_in_a_message_is_an_option_of_a_tool():
    # Bug: an argument or an option is renamed, and a tool asks for an option that it does not have.
    named = {
        option
        for path in LIBRARY
        for text in strings(path)
        for option in re.findall(r'--[a-z-]+', as_options(text))
        if not COMMAND.search(text)
    }
    assert {'--out-dir', '--force', '--cfg-options'} <= named
    assert named - options() == set()


@pytest.mark.parametrize(
    'option', ['a=[1,2', 'a=(1,2', 'a', '=1', 'a..b=1', '.=', 'a=' + '[' * 3000 + ']' * 3000]
)
def test_a_malformed_option_is_one_line(option, capsys):
    # Bug: MMEngine asserts that brackets are balanced.
    with pytest.raises(SystemExit) as error:
        parse_train_args(['config.py', '--cfg-options', option])
    assert error.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    assert len(lines) == 1
    assert '--cfg-options' in lines[0]
    assert len(lines[0]) < 500


def test_options_are_parsed_as_mmengine_does():
    args = parse_train_args(['c.py', '--cfg-options', 'a.b=[1,2]', 'c=(1,x)', 'd=None'])
    assert args.cfg_options == {'a.b': [1, 2], 'c': (1, 'x'), 'd': None}


def test_restarts_need_a_launcher():
    args = parse_train_args(['c.py', '--max-restarts', '2'])
    with pytest.raises(ValueError, match=r'needs tools/dist_train\.sh'):
        prepare_train(args)


@pytest.mark.parametrize('option', [['--resume', 'named.pth'], [], ['--resume']])
@pytest.mark.parametrize(
    ('written', 'is_of_this_run'), [(None, False), ('20260101', False), ('20260103', True)]
)
def test_a_restart_goes_on_from_what_this_run_has_written(
    tmp_path, monkeypatch, option, written, is_of_this_run
):
    # Bugs: a process dies before the first checkpoint is written. Instead of the checkpoint that
    # was named, the restarted training begins at random weights, or goes on from a checkpoint of
    # the training before it.
    (tmp_path / 'c.py').write_text(f'work_dir = {str(tmp_path)!r}')
    if written is not None:
        meta = {'epoch': 1, 'iter': 4, 'time': f'{written}_000000'}
        state = {'state_dict': {}, 'meta': meta, 'optimizer': {}, 'message_hub': {}}
        torch.save(state, tmp_path / 'epoch_1.pth')
    monkeypatch.setenv('MMWS_STARTED', '20260102_000000')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setattr(cli, 'prepare', lambda config, **arguments: arguments['resume'])
    args = parse_train_args([str(tmp_path / 'c.py'), *option])
    asked = args.resume
    assert prepare_train(args) == ('auto' if is_of_this_run else asked)


def test_the_error_of_a_data_worker_is_one_line():
    text = 'Caught X in worker 0.\nOriginal Traceback (most recent call last):\n  a\nOSError: gone'
    with pytest.raises(SystemExit, match=r'^error: OSError: gone$'), one_line_errors(OSError):
        raise OSError(text)
