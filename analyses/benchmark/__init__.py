"""How fast the scopes are, against the least they could cost and against what one would use instead.

measurements   runs cases in turns and takes medians; peak memory of each
workloads      the cases: body passes, scopes, batches, matrices
rivals         the same scores from Transformers and autograd alone, and from captum
startup        imports, --help and loading, each in a process of its own
targets        which ratios are met
passages       neutral text to run on
results        what was measured, as one JSON file
"""
