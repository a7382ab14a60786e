"""Information matching: distortions, what they leave of an image's information, and the label strength that follows.

Its card: MATCHING.md. Others may import `strength` (epsilon, strength, coupled), `nmi`, `distortions`.
"""
