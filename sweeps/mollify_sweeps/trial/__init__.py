"""One trial: Ray's processes, the images that reach them, and the files that it leaves.

Others may import: trial, actor, feed.
"""
