"""Generation under intervention: what may be asked for, and the service that answers; free of any server."""
