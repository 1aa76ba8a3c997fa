"""What the paper has not measured: one module for each kind of measurement.

Each has a generator function `measure`, which yields what `tools.bench.extras`
declares as soon as it is known, and raises BenchError with the reason where it
cannot go on. What is generated before an error counts. Whoever stops in the middle
has to close the generator (`contextlib.closing`): that ends the processes and removes
namespaces and files.
"""
