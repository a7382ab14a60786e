"""How things look: words and numbers, tables, charts and pages, for whatever they are about.

Others may import `text`, `console`, `axes`, `charts`, `page`, and `figures`, which loads matplotlib.
"""
