"""OpenAI's API under /openai/v1, with steering: own types, for those of KServe need vLLM."""
