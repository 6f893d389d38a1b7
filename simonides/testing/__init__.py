"""What every backend owes: suites to subclass, shipped for those who write one."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.stores", f"{__name__}.indexes")  # so that a failure shows the values
