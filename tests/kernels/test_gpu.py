"""The Triton kernels, by Triton's interpreter and compiler, and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

triton = pytest.importorskip('triton')


@pytest.mark.parametrize(
    'interpret',
    [
        '1',
        pytest.param('0', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')),
    ],
)
def test_computes_what_the_formula_says(interpret):
    # Triton decides whether to interpret when a kernel is defined.
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', str(Path(__file__).with_name('interpreted_gpu.py'))],
        env={**os.environ, 'TRITON_INTERPRET': interpret},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'passed' in run.stdout


@pytest.mark.parametrize('capability', [75, 80, 90])
@pytest.mark.parametrize(('pointer', 'half'), [('*fp32', '*bf16'), ('*fp64', '*fp64')])
@pytest.mark.parametrize('flag', [False, True])
def test_compiles_for_a_gpu(capability, pointer, half, flag):
    """Types that the interpreter lets pass but the compiler does not."""
    from triton.backends.compiler import GPUTarget

    from mmws.kernels import gpu

    types = {'n': 'i32', 'eps': 'fp32', 'scale': 'fp32', 'starts': '*i64', 'lengths': '*i32'}
    types |= {'out': half, 'grads': half}
    kernels = (
        *(gpu._standardize, gpu._standardize_backward),
        *(gpu._normalize, gpu._normalize_backward),
    )
    for kernel in kernels:
        flags = {name for name in kernel.arg_names if name.isupper() and name != 'BLOCK'}
        optional = {'starts', 'lengths', 'grad_rows', 'grad_gains', 'grad_shifts'}
        if 'HAS_GAIN' in flags:
            optional |= {'gains', 'shifts'}
        constants = {
            name: 1024 if name == 'BLOCK' else flag if name in flags else None
            for name in kernel.arg_names
            if name == 'BLOCK' or name in flags or (name in optional and not flag)
        }
        signature = {
            name: 'constexpr' if name in constants else types.get(name, pointer)
            for name in kernel.arg_names
        }
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32))
        assert 'ptx' in compiled.asm
