"""The folder of all datasets: $RAYUNLEARN_DATA, of this process or of whoever started the job on a cluster.

A worker of a cluster has the environment of its node, and works in a folder that the user does not see. So a
driver makes its own RAYUNLEARN_DATA absolute, and hands it to the workers under another name: a node whose
data are elsewhere keeps its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from rayunlearn.errors import BadInput

DATA_VARIABLE = "RAYUNLEARN_DATA"
OF_DRIVER = "RAYUNLEARN_DATA_OF_DRIVER"
"""The environment variable in which workers of a cluster find the driver's folder."""


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What the workers of a cluster are told of a driver's folder, as environment variables.

    >>> handed_on({"RAYUNLEARN_DATA": "/data"}), handed_on({})
    ({'RAYUNLEARN_DATA_OF_DRIVER': '/data'}, {})
    """
    own = environment.get(DATA_VARIABLE)
    return {OF_DRIVER: os.path.abspath(own)} if own else {}


def folders_named() -> list[str]:
    """Every folder that this process's environment names, absolute."""
    named = [os.environ.get(DATA_VARIABLE), os.environ.get(OF_DRIVER)]
    return [os.path.abspath(folder) for folder in named if folder]


def data_root(inside: str, where: str) -> str | None:
    """The folder in which a dataset's folder is to be looked for, absolute; None where none is named.

    It is this node's own, if that is an absolute path, else the driver's, else the node's own from where this
    process works. An own one that has no such dataset gives way to a driver's that has it.

    Args:
        inside: the dataset's folder, from the root.
        where: the dataset, for the message.

    Raises:
        BadInput: the node and the driver name two folders, and both have the dataset here.
    """
    own, driver = os.environ.get(DATA_VARIABLE), os.environ.get(OF_DRIVER)
    if not own or not driver:
        one = own or driver
        return os.path.abspath(one) if one else None
    if not os.path.isabs(own) or os.path.realpath(own) == os.path.realpath(driver):
        return driver
    if not os.path.isdir(os.path.join(driver, inside)):
        return own
    if os.path.isdir(os.path.join(own, inside)):
        allowed = f"{driver!r}, which the job was started with: {inside}/ is in both. Have both name one, or "
        allowed += "start the job without"
        raise BadInput(f"environment variable {DATA_VARIABLE} of this node", own, allowed, where=where)
    return driver
