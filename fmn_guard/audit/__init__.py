"""The auditor: draws every probe on either side, looks at every picture, and judges nothing."""
