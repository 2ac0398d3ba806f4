"""What `test_ddp` lets other processes do: they import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def rank() -> int:
    return int(os.environ["RANK"])


def be_killed_while_the_other_waits() -> None:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def wait_for_ever(folder: Path) -> None:
    (folder / f"pid-{rank()}").write_text(str(os.getpid()))
    time.sleep(600)


def normalise_and_diverge(seed: int) -> None:
    """Batch norm over two processes against one with all of the batch; then a loss of which one term is no number."""
    import lightning
    import torch
    from torch import distributed, nn

    from occlift.models.synchronised_norm import SynchronisedBatchNorm, synchronise_batch_norms
    from occlift.training.mean_loss import logged_mean

    distributed.init_process_group("gloo", rank=rank(), world_size=2)
    try:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(6, 5, 3, 4, 2, generator=generator, dtype=torch.float64) * 3 + 100
        towards = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        plain = nn.Sequential(nn.Conv3d(5, 4, 1), nn.BatchNorm3d(4)).double()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        shared = nn.Sequential(nn.Conv3d(5, 4, 1), nn.BatchNorm3d(4)).double()
        shared.load_state_dict(plain.state_dict())
        synchronise_batch_norms(shared, device_type="cpu")
        assert isinstance(shared[1], SynchronisedBatchNorm)
        mine = slice(0, 3) if rank() == 0 else slice(3, 6)
        whole, part = values.clone().requires_grad_(), values[mine].clone().requires_grad_()
        ((plain(whole) - (towards.roll(1, 1)[:, :4])) ** 2 * towards[:, :4]).sum().backward()
        ((shared(part) - (towards.roll(1, 1)[mine, :4])) ** 2 * towards[mine, :4]).sum().backward()
        assert whole.grad is not None
        torch.testing.assert_close(part.grad, whole.grad[mine])
        for one, other in zip(plain.parameters(), shared.parameters(), strict=True):
            distributed.all_reduce(other.grad)
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-6)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[name], value)
        torch.testing.assert_close(shared.eval()(part.detach()), plain.eval()(part.detach()))

        good, bad = torch.tensor(1.0), torch.tensor(float("inf") if rank() == 1 else 2.0)
        tokens = ("a", "b") if rank() == 0 else ("c", "d")
        logged_mean(lightning.LightningModule(), [{"x": good, "y": good}, {"x": good, "y": bad}], tokens)
    finally:
        distributed.destroy_process_group()
