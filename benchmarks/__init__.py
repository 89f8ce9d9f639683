"""What fmn-guard costs in time. Figures are ratios to a baseline measured in the same run."""
