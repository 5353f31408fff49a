"""Two real processes on gloo give the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.distill import distributed
from clip_edge.distill.distributed import Processes
from clip_edge.errors import ConfigError, UnavailableError

# One script for both: alone it sees the whole batch, under torchrun each process sees its half.
SCRIPT = """
import sys
import torch
import torch.nn.functional as F
from dataclasses import dataclass
from pathlib import Path
from safetensors.torch import save_file
from torch import Tensor, nn
from clip_edge.distill import distributed, gradcache
from clip_edge.distill.losses.contrastive import clip_loss, sigmoid_loss

@dataclass(frozen=True)
class Pair:
    image: Tensor
    text: Tensor

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 16))
        self.image.to(memory_format=torch.channels_last)
        self.text = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 16))
        self.logit_scale = nn.Parameter(torch.tensor(2.6))
        self.logit_bias = nn.Parameter(torch.tensor(-5.0))

out = Path(sys.argv[1])
torch.set_num_threads(1)
with distributed.join("cpu") as here:
    torch.manual_seed(here.rank)  # a different start everywhere, until `same_start`
    model = Towers()
    distributed.same_start(model)
    torch.manual_seed(100)
    rows = here.share(24)
    batch = Pair(torch.randn(24, 3, 8, 8)[rows], torch.randn(24, 5)[rows])

    def embed(chunk):
        return F.normalize(model.image(chunk.image), dim=-1), F.normalize(model.text(chunk.text), dim=-1)

    found = {}
    for name, objective in (("softmax", clip_loss), ("sigmoid", sigmoid_loss)):
        def loss(image, text):
            image, text = distributed.gather(image), distributed.gather(text)
            return objective(image, text, model.logit_scale.exp(), model.logit_bias, rows=rows)

        for chunk_size in (0, 5):
            model.zero_grad()
            if chunk_size:
                terms = gradcache.cached_backward(batch, embed, loss, lambda x: x, chunk_size=chunk_size, model=model)
            else:
                terms = gradcache.backward(batch, embed, loss, lambda x: x)
            distributed.average_gradients(model)
            value = terms["contrastive_loss"]
            distributed.average([value])
            found[f"{name}/{chunk_size}/loss"] = value
            for parameter, tensor in model.named_parameters():
                if tensor.grad is not None:
                    found[f"{name}/{chunk_size}/{parameter}"] = tensor.grad.contiguous()
    assert distributed.any_process(here.rank == here.world_size - 1, here.device)
    assert not distributed.any_process(False, here.device)
    if here.is_main:
        save_file(found, out)
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        words = [sys.executable, *launcher, str(script), str(tmp_path / name)]
        done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert len(one) == 2 * 10 + 2 * 11  # a loss and nine gradients, with the sigmoid also that of the bias
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_one_process_needs_no_group() -> None:
    with distributed.join("cpu") as here:
        assert here == Processes(0, 1, torch.device("cpu"))
        assert here.is_main
        rows = torch.ones(3, 2, requires_grad=True)
        assert distributed.gather(rows) is rows
        assert distributed.any_process(True, here.device)
        distributed.barrier()


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_shares_cover_everything_once(count: int) -> None:
    device = torch.device("cpu")
    parts = [list(range(count))[Processes(rank, 3, device).share(count)] for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ConfigError, match="`device` must be one of auto, cpu, cuda; found `tpu`"),
        distributed.join("tpu"),
    ):
        pass
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UnavailableError, match="this process needs CUDA device 99"), distributed.join("cuda"):
        pass


def test_buckets_keep_order_and_types_apart() -> None:
    tensors = [torch.zeros(2), torch.zeros(3), torch.zeros(1, dtype=torch.float64)]
    assert [len(bucket) for bucket in distributed._buckets(tensors)] == [2, 1]
