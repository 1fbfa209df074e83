"""What a routed layer computes: ops in the torch namespace ``growstage``, plain torch as default.

Letters in argument names: T tokens, K slots a token, S = T*K rows, E experts, D inputs, O outputs.
"""

from ops.combine import combine
from ops.expert_mlp import expert_mlp
from ops.permute import permute
from ops.registry import backend, names
from ops.route import route
from ops.usage import usage

__all__ = ["backend", "combine", "expert_mlp", "names", "permute", "route", "usage"]
