"""What a sweep found: report.html, summary.md, tables and pictures, and how it ends in the terminal.

Others may import `build`, `terminal` and `words`.
"""
