"""Speed, memory and operations against what a user would pick instead: python -m benchmarks.

All variants run in one process, round by round in turn, after a check that they compute the same.
"""

import os

# The profiler writes lines about itself to the terminal otherwise; it reads this when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
