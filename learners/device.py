"""Where networks are: on a processor, or on a GPU."""

import torch


def device_there_is(name: str) -> str:
    """That name, or the processor's if there is no such device here: a machine without a GPU uses what one learned."""
    try:
        usable_device(name)
    except ValueError:
        return "cpu"
    return name


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it is none, or can not be used here.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is none of cpu, cuda, cuda:1, ...")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} can not be used: {str(error).splitlines()[0]}") from None
    return device
