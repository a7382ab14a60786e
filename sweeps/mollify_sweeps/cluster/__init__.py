"""The machines: the Ray that is connected to, what its processes find, and jobs.

Others may import: connection, environment, workers, jobs.
"""
