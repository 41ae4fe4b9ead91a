"""What facts mean: a check takes all facts and returns a finding, or None where it has nothing to judge."""
