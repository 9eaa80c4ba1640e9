"""From a checked view to a frozen compiled view: slots, tile levels, windows, kernels.

All branching on types and windows happens here, once; what runs per batch only follows the plan.
"""
