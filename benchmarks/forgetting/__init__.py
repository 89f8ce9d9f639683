"""What each preset forgets and keeps on the built-in model, side by side.

    python -m benchmarks.forgetting [--quick] [--presets official,guarded]     the table
    python -m benchmarks.forgetting.tuning                                     the dose of ``official-tuned``

A row is one scenario under one preset. Rows are files, so a benchmark that is killed goes on after the last one.
"""
