"""What a routed layer computes: ops in the torch namespace ``growstage``, plain torch as default.

Compiled kernels are loaded on import where they can be had (GROWSTAGE_OPS=off|auto|require).
Letters in argument names: T tokens, K slots a token, S rows, E experts, D inputs, O outputs.
"""

from ops import library
from ops.combine import combine
from ops.expert_mlp import expert_mlp
from ops.library import OpsUnavailableError, require
from ops.permute import permute
from ops.registry import backend, compiled, names
from ops.route import route
from ops.row_sum import row_sum
from ops.usage import usage

status = library.load

__all__ = [
    "OpsUnavailableError",
    "backend",
    "combine",
    "compiled",
    "expert_mlp",
    "names",
    "permute",
    "require",
    "route",
    "row_sum",
    "status",
    "usage",
]

library.load()
