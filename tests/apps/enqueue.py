# pyright: basic, reportFunctionMemberAccess=false
# (Celery has no type hints)
"""Signs users out by Celery tasks, and prints the result of each; argv: user ids."""

import sys

from celery_app import sign_out_everywhere

results = [sign_out_everywhere.delay(user_id) for user_id in sys.argv[1:]]
for result in results:
    print(result.get(timeout=10))
