"""The service: searches of the settings of a method, on Ray, and what they find.

A room for every concept; ARCHITECTURE.md has them on one page. The programs beside this package turn words into typed
options and make one call each.
"""
