"""What eraser and auditor share: loading, sampling, attention capture, and the built-in judge."""
