"""What every backend owes: suites to subclass, shipped for those who write one."""
