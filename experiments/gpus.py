"""Which GPUs there are to share among processes."""

import os

import torch


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it to a child; [] without any."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    num = torch.cuda.device_count()
    return names[:num] if all(names) else [str(index) for index in range(num)]
