"""Trainings in processes of their own: what their tests share."""

import socket

from safetensors.torch import load_file


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(settings):
    return load_file(settings.folder / "checkpoint" / "final" / "model.safetensors")
