"""Supervised mollification: when, how much, and with which label strength an image is noised or blurred.

Its card: MOLLIFICATION.md. Others may import `schedule` (the draws) and `degrade` (the images).
"""
