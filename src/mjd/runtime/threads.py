"""How PyTorch's CPU threads wait for one another: decided by the environment in which a process starts."""

from __future__ import annotations

from collections.abc import Mapping

WAIT_POLICY = "OMP_WAIT_POLICY"


def thread_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process that computes with PyTorch, in `environment`: its waiting threads sleep.

    They spin by default, and when another program needs the same cores, every operator then waits for the system to
    take them away: ten times slower and more. OpenMP reads the policy when PyTorch is first imported, so whoever starts
    a process sets it: the Snakefile, for all jobs and the processes that they start. What the user has chosen stays.
    """
    return {} if WAIT_POLICY in environment else {WAIT_POLICY: "PASSIVE"}
