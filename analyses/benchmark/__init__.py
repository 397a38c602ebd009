"""Time and memory of the scopes, against a lower bound and against competing implementations.

run            the command
cases          what is timed: body passes, scopes, batches, matrices
competitors    the same scores in Transformers alone, by the steps of the paper's code, and by captum
startup        time until ready: imports, --help, loading
passages       generated prompts
measurements   interleaved rounds, medians, peak memory
goals          ratios the project aims at
results        sections of measurements and their JSON file
table, figure  results in the terminal and as a picture
"""
