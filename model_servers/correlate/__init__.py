"""The predictor ``correlate``: look-ups over HTTP."""
