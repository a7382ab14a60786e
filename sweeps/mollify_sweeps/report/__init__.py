"""What a sweep found, in words and pictures: report.html, summary.md, the tables, the terminal.

Others may import: build, words, terminal.
"""
