"""How things look: numbers and tables as text, the terminal, axes, charts and pages as HTML, figures as PNG.

Others may import: text, console, axes, charts, figures, page.
"""
