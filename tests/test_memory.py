"""Freed memory stays with the process."""

import resource

import pytest
import torch

from mnist1d.memory import keep_freed_memory


def test_blocks_freed_by_one_step_are_used_by_the_next_without_page_faults():
    if not keep_freed_memory():
        pytest.skip("needs glibc's allocator")
    for _ in range(6):  # the heap settles after a few rounds
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.zeros(4 << 20, dtype=torch.uint8) for _ in range(4)]  # 4096 pages
        del blocks
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 400
