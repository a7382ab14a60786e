"""What models are judged by: per-image metrics, calibration, validation, cells of an evaluation, and statistics.

Its card: MEASURE.md. Others may import `metrics`, `calibration`, `selective`, `detection`, `validation`, `evaluation`,
`statistics`, `contrast`, `comparison`, `power`, `search_curve`, `bootstrap`.
"""
