"""Exact weighted attention over groups of keys, on the fastest kernels that the machine has.

    groups = [(0, 729, math.log(0.5))]                        # the first 729 keys count half, the rest as usual
    out = weighted_attention(q_BHLD, k_BHLD, v_BHLD, groups)
    out, shares = weighted_attention_and_shares(q_BHLD, k_BHLD, v_BHLD, groups)

`prepare_groups` checks and joins the groups once for many calls; `available_backends` says what can be used here.
The environment variable REDUX_ATTENTION forces a backend.
"""

from .backends import available_backends
from .foreign import ForeignKernel
from .groups import GroupPlan, prepare_groups
from .weighted import weighted_attention, weighted_attention_and_shares

__all__ = [
    "ForeignKernel",
    "GroupPlan",
    "available_backends",
    "prepare_groups",
    "weighted_attention",
    "weighted_attention_and_shares",
]
