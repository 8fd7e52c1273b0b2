"""Servers of what is computed online: KServe predictors, thin over the library; the only code that imports kserve.

``base`` is what all predictors share; each predictor has a folder of its own. ``python -m model_servers`` starts them.
"""
