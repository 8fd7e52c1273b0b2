"""The predictor ``steer``: text, and text under interventions, by OpenAI's API and KServe's protocols."""
