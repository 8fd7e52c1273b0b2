"""The predictor ``monitor``: the sink of a payload logger, and a window on what is watched."""
